# The twin CUDA modules: the same sources, compiled once with -ftz=true and once with -ftz=false.
#
# Two modules with hidden symbols and not one library: the variants' templates have the same names, and a linker that
# sees both keeps one and silently drops the other.
#
# Sets FPES_CUDA_BUILT, FPES_CUDA_REASON, FPES_CUDA_COMPILER and FPES_CUDA_ARCHITECTURES for _build_info.py.

set(FPES_CUDA_BUILT "")
set(FPES_CUDA_REASON "")
set(FPES_CUDA_COMPILER "")
set(FPES_CUDA_ARCHITECTURES "")

if(NOT FPES_CUDA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "FPES_CUDA is '${FPES_CUDA}', expected AUTO, ON or OFF")
endif()
foreach(build IN LISTS FPES_CUDA_BUILDS)
    if(NOT build MATCHES "^(ftz|ieee)$")
        message(
            FATAL_ERROR
            "FPES_CUDA_BUILDS has '${build}', expected ftz, ieee or both: \"ftz;ieee\""
        )
    endif()
endforeach()

if(FPES_CUDA STREQUAL "OFF")
    set(FPES_CUDA_REASON "it was built with FPES_CUDA=OFF")
else()
    include("${CMAKE_CURRENT_LIST_DIR}/cuda_compiler.cmake")
endif()
if(NOT FPES_CUDA_FOUND)
    if(FPES_CUDA STREQUAL "ON")
        message(FATAL_ERROR "FPES_CUDA=ON, but ${FPES_CUDA_REASON}")
    endif()
    message(STATUS "fpes: no CUDA modules: ${FPES_CUDA_REASON}")
    # The reason becomes a string in Python.
    string(
        REGEX REPLACE "([\"\\\\])"
        "\\\\\\1"
        FPES_CUDA_REASON
        "${FPES_CUDA_REASON}"
    )
    return()
endif()

list(JOIN CMAKE_CUDA_ARCHITECTURES " " FPES_CUDA_ARCHITECTURES)

file(GLOB fpes_cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)

function(fpes_add_cuda_module build)
    set(module _cuda_${build})
    pybind11_add_module(${module} MODULE
        csrc/bindings/cuda.cpp
        csrc/common/allocation.cpp
        csrc/common/population.cpp
        csrc/common/program.cpp
        csrc/common/unit.cpp
        ${fpes_cuda_sources}
    )
    if(build STREQUAL "ftz")
        set(ftz true)
    else()
        set(ftz false)
    endif()
    target_compile_features(${module} PRIVATE cxx_std_17)
    target_compile_definitions(
        ${module}
        PRIVATE
            FPES_MODULE=${module}
            FPES_TARGET=cuda_${build}
            FPES_FTZ=$<BOOL:${ftz}>
            FPES_CUDA_ARCHITECTURES="${FPES_CUDA_ARCHITECTURES}"
    )
    # The arithmetic contract, every flag said aloud: subnormals as the build's name has it, no multiply-add that isn't
    # written, division and square root correctly rounded.
    set(arithmetic -ftz=${ftz} -fmad=false -prec-div=true -prec-sqrt=true)
    set(host
        -O3
        -fvisibility=hidden
        -ffp-contract=off
        -fno-math-errno
        -Wall
        -Wextra
        -Wno-psabi
    )
    list(JOIN host "," host_by_nvcc)
    target_compile_options(
        ${module}
        PRIVATE
            "$<$<COMPILE_LANGUAGE:CUDA>:${arithmetic};-Xcompiler=${host_by_nvcc}>"
            "$<$<COMPILE_LANGUAGE:CXX>:${host}>"
    )
    install(TARGETS ${module} DESTINATION fpes)
endfunction()

foreach(build IN LISTS FPES_CUDA_BUILDS)
    fpes_add_cuda_module(${build})
endforeach()
list(JOIN FPES_CUDA_BUILDS " " FPES_CUDA_BUILT)
set(FPES_CUDA_COMPILER "${CMAKE_CUDA_COMPILER_VERSION}")
message(
    STATUS
    "fpes: CUDA modules ${FPES_CUDA_BUILT} by nvcc ${FPES_CUDA_COMPILER} for ${FPES_CUDA_ARCHITECTURES}"
)
