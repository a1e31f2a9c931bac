# What the builds of the CUDA backend share: its sources, nvcc, and the architecture headers of CUTLASS.

# cuda_sources(out json group): the list of sources.json's group "cuda".
function(cuda_sources out json group)
  set(items)
  string(JSON count LENGTH "${json}" cuda ${group})
  foreach(i RANGE ${count})
    if(i LESS count)
      string(JSON item GET "${json}" cuda ${group} ${i})
      list(APPEND items "${item}")
    endif()
  endforeach()
  set(${out} "${items}" PARENT_SCOPE)
endfunction()

# find_cutlass(out): the folder with cute/arch and cutlass/arch, 4.2 or newer, or nothing. In this order: CUTLASS_DIR, an
# installed Python package that carries them, the wheel that `npm run build:cuda` fetched (NODE_ATTENTION_CUTLASS).
function(find_cutlass out)
  set(candidates)
  if(DEFINED ENV{CUTLASS_DIR})
    list(APPEND candidates $ENV{CUTLASS_DIR} $ENV{CUTLASS_DIR}/include)
  endif()
  execute_process(
    COMMAND python3 -c "import importlib.util as u
for name, path in (('cutlass_library', 'source/include'), ('flashinfer', 'data/cutlass/include')):
    spec = u.find_spec(name)
    if spec and spec.submodule_search_locations: print(spec.submodule_search_locations[0] + '/' + path)"
    OUTPUT_VARIABLE packages ERROR_QUIET)
  string(REGEX REPLACE "[\r\n]+" ";" packages "${packages}")
  list(APPEND candidates ${packages} ${NODE_ATTENTION_CUTLASS})
  set(${out} "" PARENT_SCOPE)
  foreach(folder ${candidates})
    if(EXISTS ${folder}/cute/arch/mma_sm90_gmma.hpp AND EXISTS ${folder}/cutlass/version.h)
      file(STRINGS ${folder}/cutlass/version.h lines REGEX "define CUTLASS_(MAJOR|MINOR) ")
      string(REGEX MATCH "MAJOR +([0-9]+)" ignored "${lines}")
      set(major ${CMAKE_MATCH_1})
      string(REGEX MATCH "MINOR +([0-9]+)" ignored "${lines}")
      if("${major}.${CMAKE_MATCH_1}" VERSION_GREATER_EQUAL 4.2)
        set(${out} ${folder} PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
endfunction()
