# How the sources of libnode_attention_cuda.so are compiled. The library itself (csrc/cuda/CMakeLists.txt) and its twin for
# the interpreter (test/ptx/cuda/CMakeLists.txt) use it.
include(${CMAKE_CURRENT_LIST_DIR}/sources.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/toolkit.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/linux.cmake)
find_program(NODE node)

# cuda_object(source compute architectures): object code of a .cu file. One PTX, for compute_<compute>, becomes the machine
# code of every architecture, and is part of the object for those to come. Appends to `objects`. scripts/nvcc.mjs
# leaves in products/ PTX, machine code and logs, for the interpreter and the gates, and, with NODE_ATTENTION_JUDGE, refuses
# kernels for what ptxas says of them.
function(cuda_object source compute architectures)
  string(REGEX REPLACE "\\.cu$" "" name ${source})
  string(REPLACE "/" "." name ${name})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/objects/${name}.o)
  set(codes compute_${compute})
  if(compute STREQUAL 90a AND architectures)
    set(codes) # PTX of one architecture is of use to no other
  endif()
  list(TRANSFORM architectures PREPEND sm_)
  list(PREPEND codes ${architectures})
  set(judge)
  if(NODE_ATTENTION_JUDGE)
    set(judge --judge)
  endif()
  string(REPLACE ";" "," codes "${codes}")
  add_custom_command(
    OUTPUT ${object}
    BYPRODUCTS ${CMAKE_CURRENT_BINARY_DIR}/products/compute_${compute}/${name}.ptx
    DEPENDS ${NODE_ATTENTION_ROOT}/${source}
    DEPFILE ${object}.d
    COMMAND ${NODE} ${NODE_ATTENTION_ROOT}/scripts/nvcc.mjs ${judge} ${source} ${object} ${CMAKE_CURRENT_BINARY_DIR}/products
            ${CUDA_NVCC} -std=c++17 -O3 -gencode "arch=compute_${compute},code=[${codes}]" -compress-mode=size
            -I${NODE_ATTENTION_ROOT}/kernels -I${NODE_ATTENTION_ROOT}/csrc -isystem ${CUTLASS_INCLUDE}
            -ccbin ${CMAKE_CXX_COMPILER} -Xcompiler -fPIC,-fvisibility=hidden,-Wall
    VERBATIM COMMENT "")
  set(objects ${objects} ${object} PARENT_SCOPE)
endfunction()

# cuda_library(name architectures): the library without a CUDA runtime.
function(cuda_library name architectures)
  set(objects)
  set(hopper ${architectures})
  list(FILTER hopper INCLUDE REGEX "^90a$")
  set(others ${architectures})
  list(FILTER others EXCLUDE REGEX "a$")
  json_list(sources cuda kernels)
  foreach(source ${sources})
    cuda_object(${source} 80 "${others}")
  endforeach()
  json_list(sources cuda hopper)
  foreach(source ${sources})
    cuda_object(${source} 90a "${hopper}")
  endforeach()

  json_list(host cuda host)
  list(TRANSFORM host PREPEND ${NODE_ATTENTION_ROOT}/)
  add_library(${name} SHARED ${host} ${objects})
  target_include_directories(${name} PRIVATE ${NODE_ATTENTION_ROOT}/csrc ${NODE_ATTENTION_ROOT}/kernels)
  target_include_directories(${name} SYSTEM PRIVATE ${CUDA_INCLUDE})
  target_compile_options(${name} PRIVATE -Wall -Wextra -fno-exceptions)
  target_compile_definitions(${name} PRIVATE NODE_ATTENTION_BUILD="${NODE_ATTENTION_BUILD}")
  target_link_options(${name} PRIVATE -Wl,--no-undefined)
  linux_binary(${name} ${NODE_ATTENTION_ROOT}/csrc/cuda/exports.map)
  find_package(Threads REQUIRED)
  target_link_libraries(${name} PRIVATE Threads::Threads ${CMAKE_DL_LIBS} rt)
  set_target_properties(${name} PROPERTIES
    OUTPUT_NAME node_attention_cuda LINKER_LANGUAGE CXX
    CXX_STANDARD 17 CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
endfunction()
