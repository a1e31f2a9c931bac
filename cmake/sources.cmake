# sources.json, which lists all sources once, and what binaries are stamped with.
get_filename_component(NODE_ATTENTION_ROOT ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${NODE_ATTENTION_ROOT}/sources.json)
file(READ ${NODE_ATTENTION_ROOT}/sources.json sources_json)

# NODE_ATTENTION_VERSION of package.json, and NODE_ATTENTION_BUILD, the same with a hash of the table between addon and
# backends: a backend of another build is not loaded. binding.gyp makes it too.
set(package ${NODE_ATTENTION_ROOT}/package.json)
set(table ${NODE_ATTENTION_ROOT}/csrc/core/backend.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${package} ${table})
file(READ ${package} package_json)
string(JSON NODE_ATTENTION_VERSION GET "${package_json}" version)
file(SHA256 ${table} hash)
string(SUBSTRING ${hash} 0 12 hash)
set(NODE_ATTENTION_BUILD ${NODE_ATTENTION_VERSION}+${hash})

# json_list(out path...): the JSON array at the path in sources.json, as a CMake list.
function(json_list out)
  set(items)
  string(JSON count LENGTH "${sources_json}" ${ARGN})
  foreach(i RANGE ${count})
    if(i LESS count)
      string(JSON item GET "${sources_json}" ${ARGN} ${i})
      list(APPEND items "${item}")
    endif()
  endforeach()
  set(${out} "${items}" PARENT_SCOPE)
endfunction()
