# What CMake writes into _build_info.py when the package is built (cmake/_build_info.py.in).
CPU_COMPILER: str
CUDA_BUILDS: list[str]
CUDA_REASON: str
CUDA_COMPILER: str
CUDA_ARCHITECTURES: list[str]
