// The platform of kernels (csrc/cuda/platform.hpp) without a GPU: enough of CUDA to compile a kernel as it stands with
// the host's compiler and to run it, block after block, with a block's threads as fibers (fibers.hpp).
//
// It is a tool for tests, and stricter than a GPU: what a device would let pass by luck fails here.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "../../../../csrc/cuda/context.hpp"

#define __global__
#define __launch_bounds__(...)
#define FPES_DEVICE inline __attribute__((always_inline))
#define FPES_UNROLL
#define FPES_ROLLED
#define FPES_CONSTANT

namespace fpes::shim {

struct Coordinates {
    int x = 0;
    int y = 0;
};

// Where the running fiber is.
extern Coordinates thread, block;

// The block's shared memory.
extern char* shared_memory;

// Runs body() once for each thread of each block. Throws std::logic_error where threads of a block wait at different
// barriers, or some wait and others have ended, or where memory beyond the block's shared memory was written.
void run_grid(std::int64_t blocks_x, std::int64_t blocks_y, int threads, int shared_bytes, bool flush,
              const std::function<void()>& body);

// The running thread waits until all threads of its block do, at the same line.
void wait_at_barrier(const char* file, int line);

// Throws std::logic_error where an address isn't a multiple of so many bytes.
void check_alignment(const void* address, std::size_t bytes, const char* what);

// Copies behind a thread's back. A device makes them at any time between the start and the wait, so in between there is
// neither what was there nor what will be, but NaN.
void start_copy(void* to, const void* from, std::size_t bytes, bool zeros);
void commit_copies();
void wait_for_copies(int groups);

// What the words of scratch memory are before anybody writes them (tests/shim_backend.py).
constexpr unsigned never_set = 0xffffffffu;

// Fibers, blocks too, in ascending order, or in descending order: a missing barrier shows in one of the two.
void set_reverse_order(bool reverse);

}  // namespace fpes::shim

#define threadIdx (::fpes::shim::thread)
#define blockIdx (::fpes::shim::block)
#define __syncthreads() ::fpes::shim::wait_at_barrier(__FILE__, __LINE__)

FPES_NAMESPACE_BEGIN

struct Grid {
    std::int64_t x;
    std::int64_t y = 1;
};

template <class T>
T* dynamic_shared() {
    return reinterpret_cast<T*>(shim::shared_memory);
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, int threads, int shared_bytes, const Context& context,
            Arguments... arguments) {
    if (shared_bytes > context.device.shared_per_block) {
        throw CudaError(1, "cudaErrorInvalidValue",
                        "asking for shared memory: " + std::to_string(shared_bytes) + " bytes, the device has " +
                            std::to_string(context.device.shared_per_block));
    }
    shim::run_grid(grid.x, grid.y, threads, shared_bytes, FPES_FTZ != 0,
                   [&] { kernel(static_cast<Parameters>(arguments)...); });
}

inline void fill_with_zeros(void* memory, std::size_t bytes, const Context&) { std::memset(memory, 0, bytes); }

FPES_NAMESPACE_END
