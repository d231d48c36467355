# Finds a CUDA compiler that works, and says why there is none. Included once, at file scope, as enable_language() wants.
#
# Reads FPES_CUDA (AUTO, ON or OFF). Sets FPES_CUDA_FOUND, and FPES_CUDA_REASON where that is false.
#
# CMake's own check_language(CUDA) keeps silent about the reason, and a compiler without its libraries is a common one:
# so the same trial, compiling and linking a program, is done here first, and its message kept.

set(FPES_CUDA_FOUND FALSE)

# The folder of the CUDA packages of PyPI (nvidia-cuda-nvcc and others), if Python can import them: in an isolated build
# they lie in the build's own environment.
execute_process(
    COMMAND
        "${Python_EXECUTABLE}" -c
        "import importlib.util as u, os; s = u.find_spec('nvidia'); \
p = [os.path.join(f, 'cu13') for f in (s.submodule_search_locations if s else [])]; \
print(next((f for f in p if os.path.exists(os.path.join(f, 'bin', 'nvcc'))), ''))"
    OUTPUT_VARIABLE fpes_pypi_cuda
    OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_QUIET
)

# The compiler that the user named; else one that is installed; else PyPI's.
if(NOT CMAKE_CUDA_COMPILER AND DEFINED ENV{CUDACXX})
    set(CMAKE_CUDA_COMPILER "$ENV{CUDACXX}")
endif()
if(FPES_NVCC AND NOT EXISTS "${FPES_NVCC}")
    unset(FPES_NVCC CACHE) # of an isolated build that is gone
    unset(CMAKE_CUDA_COMPILER CACHE)
endif()
if(NOT CMAKE_CUDA_COMPILER)
    find_program(
        FPES_NVCC
        nvcc
        HINTS
            "$ENV{CUDA_PATH}/bin"
            "$ENV{CUDA_HOME}/bin"
            /usr/local/cuda/bin
            /opt/cuda/bin
            "${fpes_pypi_cuda}/bin"
        DOC "CUDA compiler"
    )
    if(FPES_NVCC)
        set(CMAKE_CUDA_COMPILER "${FPES_NVCC}")
    endif()
endif()

if(NOT CMAKE_CUDA_COMPILER)
    set(FPES_CUDA_REASON
        "no CUDA compiler was found when it was built: install CUDA 13, or set FPES_CUDA=ON to get one from PyPI"
    )
    return()
endif()

# nvcc looks for its libraries in lib64; PyPI's packages put them into lib.
if(fpes_pypi_cuda AND CMAKE_CUDA_COMPILER STREQUAL "${fpes_pypi_cuda}/bin/nvcc")
    set(ENV{CUDAFLAGS} "$ENV{CUDAFLAGS} -L${fpes_pypi_cuda}/lib")
endif()

set(fpes_trial "${CMAKE_BINARY_DIR}/cuda-trial")
file(
    WRITE "${fpes_trial}/trial.cu"
    "__global__ void nothing() {}\nint main() { nothing<<<1, 1>>>(); }\n"
)
separate_arguments(fpes_cuda_flags NATIVE_COMMAND "$ENV{CUDAFLAGS}")
set(fpes_host_compiler "${CMAKE_CUDA_HOST_COMPILER}")
if(NOT fpes_host_compiler AND DEFINED ENV{CUDAHOSTCXX})
    set(fpes_host_compiler "$ENV{CUDAHOSTCXX}")
endif()
if(fpes_host_compiler)
    list(APPEND fpes_cuda_flags "-ccbin=${fpes_host_compiler}")
endif()
execute_process(
    COMMAND "${CMAKE_CUDA_COMPILER}" ${fpes_cuda_flags} trial.cu -o trial
    WORKING_DIRECTORY "${fpes_trial}"
    RESULT_VARIABLE fpes_trial_result
    OUTPUT_VARIABLE fpes_trial_output
    ERROR_VARIABLE fpes_trial_output
)
if(NOT fpes_trial_result EQUAL 0)
    string(
        REGEX REPLACE "[\r\n]+"
        "; "
        fpes_trial_output
        "${fpes_trial_output}"
    )
    string(STRIP "${fpes_trial_output}" fpes_trial_output)
    set(FPES_CUDA_REASON
        "${CMAKE_CUDA_COMPILER} can't build a program: ${fpes_trial_output} ${fpes_trial_result}"
    )
    return()
endif()

# Machine code for Hopper, and PTX from which the driver makes code for everything from Turing on, once for each card.
# Other cards have the tuned code compiled in by -DCMAKE_CUDA_ARCHITECTURES=native, or a list such as "80;90".
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
    set(CMAKE_CUDA_ARCHITECTURES "90-real;75-virtual")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static) # so that the modules need nothing but the driver
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
    set(FPES_CUDA_REASON
        "${CMAKE_CUDA_COMPILER} is CUDA ${CMAKE_CUDA_COMPILER_VERSION}, and fpes needs 12.0 or newer"
    )
    return()
endif()
set(FPES_CUDA_FOUND TRUE)
