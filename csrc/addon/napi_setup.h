// The one way to include node-addon-api: the macros that it reads are set by the build, and these check it.
#pragma once

#include <napi.h>

#if !defined(NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS) && !defined(NAPI_DISABLE_CPP_EXCEPTIONS)
#error "build without C++ exceptions: define NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS"
#endif
// Without it a call into a worker that is being terminated aborts the whole process.
#ifndef NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#error "define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
#endif
