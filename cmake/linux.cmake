# What all binaries for Linux have in common.
include(CheckCXXSymbolExists)
check_cxx_symbol_exists(__GLIBC__ cstdlib HAVE_GLIBC)
set(OLD_SYMBOLS ${NODE_ATTENTION_ROOT}/csrc/linux/old_symbols.cc)

# linux_binary(target exports): exports nothing but what the file of `exports` names, has no executable stack, and is never
# unloaded: its threads may still run when the process lets go of it. It has no build ID, which would be a hash of local
# symbols too, and nvcc puts a hash of the source's folder into some of those.
function(linux_binary target exports)
  target_link_options(${target} PRIVATE
    -Wl,-z,nodelete -Wl,-z,noexecstack -Wl,--build-id=none -Wl,--version-script=${exports})
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${exports})
endfunction()

# old_symbols(target): the binary runs on glibc 2.28 and newer, whatever it is built on.
function(old_symbols target)
  if(NOT HAVE_GLIBC OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|aarch64)$")
    return()
  endif()
  file(STRINGS ${OLD_SYMBOLS} lines REGEX "^NA_(OLD|CALLS_OF)\\(")
  foreach(line IN LISTS lines)
    string(REGEX MATCH "\"([^\"]+)\"" ignored "${line}")
    target_link_options(${target} PRIVATE -Wl,--wrap=${CMAKE_MATCH_1})
  endforeach()
  target_sources(${target} PRIVATE ${OLD_SYMBOLS})
  target_link_options(${target} PRIVATE -Wl,--gc-sections)
  # Where these functions were before glibc 2.34, which has empty libraries of these names.
  set(libraries libdl.so.2 libpthread.so.0 librt.so.1)
  list(TRANSFORM libraries PREPEND -l:)
  target_link_libraries(${target} PRIVATE -Wl,--push-state,--no-as-needed ${libraries} -Wl,--pop-state)
endfunction()
