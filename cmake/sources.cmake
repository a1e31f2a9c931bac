# sources.json, which lists all sources once.
get_filename_component(NODE_ATTENTION_ROOT ${CMAKE_CURRENT_LIST_DIR} DIRECTORY)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${NODE_ATTENTION_ROOT}/sources.json)
file(READ ${NODE_ATTENTION_ROOT}/sources.json sources_json)

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
