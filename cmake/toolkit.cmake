# Finds what CUDA code is built with:
#
#   CUDA_NVCC, CUDA_VERSION     nvcc 12.8 or newer: $CUDACXX, then PATH, then the newest /usr/local/cuda*
#   CUDA_INCLUDE, CUDA_LIBRARY  its folders of headers and libraries
#   CUTLASS_INCLUDE             a folder with CUTLASS's architecture headers, 4.2 or newer: $CUTLASS_DIR, then an installed
#                               Python package that carries them, then a wheel fetched into build/, then a clone of the
#                               repository
#
# or CUDA_MISSING, a sentence that says what is missing and how to get it.

set(NVCC_OLDEST 12.8)
set(CUTLASS_OLDEST 4.2)
set(CUTLASS_WHEEL nvidia-cutlass==4.2.0.0)
set(CUTLASS_WHEEL_SHA256 f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6)
set(CUTLASS_TAG v4.2.0)

# cutlass_version(folder out): of the headers in the folder, or nothing.
function(cutlass_version folder out)
  set(${out} "" PARENT_SCOPE)
  if(EXISTS ${folder}/cutlass/version.h AND EXISTS ${folder}/cute/arch)
    file(READ ${folder}/cutlass/version.h text)
    if(text MATCHES "define CUTLASS_MAJOR ([0-9]+).*define CUTLASS_MINOR ([0-9]+)")
      set(${out} ${CMAKE_MATCH_1}.${CMAKE_MATCH_2} PARENT_SCOPE)
    endif()
  endif()
endfunction()

# Where installed Python packages keep CUTLASS's headers.
function(cutlass_of_python out)
  set(${out} "" PARENT_SCOPE)
  find_program(PYTHON NAMES python3 python)
  if(NOT PYTHON)
    return()
  endif()
  execute_process(
    COMMAND ${PYTHON} -c "
import importlib.util, os
for name, path in (('cutlass_library', 'source/include'), ('flashinfer', 'data/cutlass/include')):
    spec = importlib.util.find_spec(name)
    for folder in (spec and spec.submodule_search_locations) or ():
        print(os.path.join(folder, path))
"
    OUTPUT_VARIABLE folders ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  string(REPLACE "\n" ";" folders "${folders}")
  foreach(folder ${folders})
    cutlass_version(${folder} version)
    if(version VERSION_GREATER_EQUAL CUTLASS_OLDEST)
      set(${out} ${folder} PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# The pinned wheel, unpacked in build/; pip refuses one with another hash.
function(cutlass_of_wheel out)
  set(${out} "" PARENT_SCOPE)
  set(folder ${NODE_ATTENTION_ROOT}/build/cutlass)
  set(include ${folder}/cutlass_library/source/include)
  if(NOT EXISTS ${include}/cutlass/version.h AND PYTHON)
    message(STATUS "fetching ${CUTLASS_WHEEL}")
    file(REMOVE_RECURSE ${folder})
    file(WRITE ${folder}/requirements.txt "${CUTLASS_WHEEL} --hash=sha256:${CUTLASS_WHEEL_SHA256}\n")
    execute_process(
      COMMAND ${PYTHON} -m pip download -q --no-deps --only-binary :all: --require-hashes -r requirements.txt
      WORKING_DIRECTORY ${folder} OUTPUT_QUIET ERROR_QUIET)
    file(GLOB wheel ${folder}/*.whl)
    if(wheel)
      execute_process(COMMAND ${CMAKE_COMMAND} -E tar xf ${wheel} WORKING_DIRECTORY ${folder})
      file(REMOVE ${wheel})
    endif()
  endif()
  cutlass_version(${include} version)
  if(version VERSION_GREATER_EQUAL CUTLASS_OLDEST)
    set(${out} ${include} PARENT_SCOPE)
  endif()
endfunction()

# The pinned tag of the repository. FetchContent ends the configuration when it fails, hence the question before.
function(cutlass_of_repository out)
  set(${out} "" PARENT_SCOPE)
  set(repository https://github.com/NVIDIA/cutlass.git)
  find_package(Git QUIET)
  if(NOT Git_FOUND)
    return()
  endif()
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env GIT_TERMINAL_PROMPT=0 ${GIT_EXECUTABLE} ls-remote --exit-code ${repository} ${CUTLASS_TAG}
    RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET TIMEOUT 30)
  if(NOT status EQUAL 0)
    return()
  endif()
  include(FetchContent)
  FetchContent_Declare(cutlass GIT_REPOSITORY ${repository} GIT_TAG ${CUTLASS_TAG} GIT_SHALLOW ON SOURCE_SUBDIR none)
  FetchContent_MakeAvailable(cutlass)
  set(${out} ${cutlass_SOURCE_DIR}/include PARENT_SCOPE)
endfunction()

function(find_cuda_toolkit)
  file(GLOB installed /usr/local/cuda*/bin)
  list(SORT installed COMPARE NATURAL ORDER DESCENDING)
  if(DEFINED ENV{CUDACXX})
    set(nvcc $ENV{CUDACXX})
  else()
    find_program(nvcc nvcc PATHS ${installed} NO_CACHE)
  endif()
  set(get "install CUDA ${NVCC_OLDEST} or newer (https://developer.nvidia.com/cuda-downloads), or set CUDACXX to its nvcc")
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE status)
  if(NOT nvcc OR NOT status EQUAL 0)
    set(CUDA_MISSING "nvcc is missing: ${get}" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "release ([0-9.]+)" ignored "${text}")
  set(version ${CMAKE_MATCH_1})
  if(version VERSION_LESS NVCC_OLDEST)
    set(CUDA_MISSING "${nvcc} is version ${version}: ${get}" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${nvcc} --dryrun -x cu /dev/null OUTPUT_VARIABLE dryrun ERROR_VARIABLE dryrun)
  string(REGEX MATCH "INCLUDES=\"-I([^\"]+)\"" ignored "${dryrun}")
  set(include ${CMAKE_MATCH_1})
  find_library(cudart cudart_static PATHS ${include}/../lib ${include}/../lib64 ${include}/../lib/x64 NO_CACHE NO_DEFAULT_PATH)
  if(NOT cudart OR NOT EXISTS ${include}/cuda_runtime_api.h)
    set(CUDA_MISSING "libcudart_static.a or cuda_runtime_api.h is missing beside ${nvcc}: ${get}" PARENT_SCOPE)
    return()
  endif()
  get_filename_component(libraries ${cudart} DIRECTORY)
  set(CUDA_NVCC ${nvcc} PARENT_SCOPE)
  set(CUDA_VERSION ${version} PARENT_SCOPE)
  set(CUDA_INCLUDE ${include} PARENT_SCOPE)
  set(CUDA_LIBRARY ${libraries} PARENT_SCOPE)
endfunction()

function(find_cutlass)
  set(get "set CUTLASS_DIR to a checkout of CUTLASS ${CUTLASS_OLDEST} or newer, or run pip install ${CUTLASS_WHEEL}")
  if(DEFINED ENV{CUTLASS_DIR})
    set(include $ENV{CUTLASS_DIR}/include)
    cutlass_version(${include} version)
    if(version VERSION_LESS CUTLASS_OLDEST)
      set(CUDA_MISSING "CUTLASS_DIR=$ENV{CUTLASS_DIR} holds no CUTLASS ${CUTLASS_OLDEST} or newer: ${get}" PARENT_SCOPE)
      return()
    endif()
  endif()
  foreach(place python wheel repository)
    if(NOT include)
      cmake_language(CALL cutlass_of_${place} include)
    endif()
  endforeach()
  if(NOT include)
    set(CUDA_MISSING "the headers of CUTLASS are missing and cannot be fetched: ${get}" PARENT_SCOPE)
  endif()
  set(CUTLASS_INCLUDE ${include} PARENT_SCOPE)
endfunction()

find_cuda_toolkit()
if(NOT CUDA_MISSING)
  find_cutlass()
endif()
