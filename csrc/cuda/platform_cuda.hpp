// The platform (platform.hpp) on a GPU.
#pragma once

#include <cuda_runtime.h>

#include "context.hpp"

#define FPES_DEVICE __device__ __forceinline__
#define FPES_UNROLL _Pragma("unroll")
#define FPES_ROLLED _Pragma("unroll 1")
#define FPES_CONSTANT __grid_constant__

FPES_NAMESPACE_BEGIN

// Throws what a CUDA call reports. The runtime forgets an error that was read, unless the context is lost.
inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();
    throw CudaError(static_cast<int>(status), cudaGetErrorName(status),
                    std::string(what) + ": " + cudaGetErrorString(status));
}

struct Grid {
    std::int64_t x;
    std::int64_t y = 1;
};

template <class T>
FPES_DEVICE T* dynamic_shared() {
    extern __shared__ float4 shared_memory[];
    return reinterpret_cast<T*>(shared_memory);
}

// Beyond this much a kernel has to ask.
constexpr int default_shared_bytes = 48 * 1024;

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, int threads, int shared_bytes, const Context& context,
            Arguments... arguments) {
    if (shared_bytes > default_shared_bytes) {
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
              "asking for shared memory");
    }
    const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
    kernel<<<blocks, threads, static_cast<std::size_t>(shared_bytes), context.stream>>>(
        static_cast<Parameters>(arguments)...);
    check(cudaGetLastError(), "launching a kernel");
}

inline void fill_with_zeros(void* memory, std::size_t bytes, const Context& context) {
    check(cudaMemsetAsync(memory, 0, bytes, context.stream), "filling memory with zeros");
}

FPES_NAMESPACE_END
