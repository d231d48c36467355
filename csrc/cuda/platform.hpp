// What kernels are written in: CUDA, or on a machine without a GPU the host shim of tests/shim, which defines the same
// names and runs a block's threads as fibers.
//
// Kernels and the code that launches them use what this file and intrinsics.hpp name, and no CUDA beyond it:
//
//     __global__ __launch_bounds__(threads, blocks)     a kernel, void
//     FPES_DEVICE                                       a function of kernels, inlined
//     FPES_UNROLL, FPES_ROLLED                          before a loop: unroll it, or don't
//     FPES_CONSTANT                                     before a large parameter of a kernel, which is read in place
//     threadIdx.x, blockIdx.x, .y                       int coordinates by way of thread_index() ...
//     dynamic_shared<T>()                               the block's shared memory, all of it dynamic
//     __syncthreads()                                   reached by all threads of a block, or by none
//     launch(kernel, grid, threads, shared, context, arguments...)
//     fill_with_zeros(pointer, bytes, context)
#pragma once

#include "context.hpp"

#if defined(FPES_SHIM)
#include "shim/platform.hpp"
#else
#include "platform_cuda.hpp"
#endif

FPES_NAMESPACE_BEGIN

FPES_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FPES_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
FPES_DEVICE int block_index_y() { return static_cast<int>(blockIdx.y); }

// How many parts of this size cover the whole.
FPES_INLINE constexpr std::int64_t parts(std::int64_t whole, std::int64_t part) { return (whole + part - 1) / part; }
FPES_INLINE constexpr int smaller(int a, int b) { return a < b ? a : b; }

// The element of a one-dimensional launch that this thread works on.
FPES_DEVICE std::int64_t global_index(int threads) {
    return static_cast<std::int64_t>(block_index()) * threads + thread_index();
}
// Elements are so many that 2^31 - 1 blocks of this size are always enough.
constexpr int elementwise_threads = 256;

FPES_NAMESPACE_END
