// Where a call runs: the stream, what the device can do, the scratch memory that the caller has brought, and what goes
// wrong. Plain C++, which the binding includes too; no CUDA header is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "../common/target.hpp"

struct CUstream_st;  // what cudaStream_t points to

namespace fpes {

using Stream = CUstream_st*;

// What the choice of kernels depends on.
struct Device {
    int multiprocessors;
    int shared_per_block;    // bytes of shared memory that one block may have, at most
    int compute_capability;  // 75, 80, 90, ...
    std::string name;
    // Floats of activations or sums that a call keeps at a time, where one pair doesn't need more: so memory doesn't
    // grow with the population. The same on every device; tests lower it.
    std::int64_t floats_at_a_time = 1 << 25;
};

// A CUDA call that failed.
class CudaError : public std::runtime_error {
   public:
    CudaError(int code, const std::string& name, const std::string& message)
        : std::runtime_error(message), code_(code), name_(name) {}
    int code() const { return code_; }
    const std::string& name() const { return name_; }

   private:
    int code_;
    std::string name_;
};

// Scratch memory, handed out piece by piece.
//
// A call takes all that it needs before its first launch. So how much that is comes from the same code: run with
// Arena::measure(), which hands out nothing and counts, and stop there.
class Arena {
   public:
    Arena(void* base, std::size_t bytes) : base_(static_cast<char*>(base)), bytes_(bytes), measuring_(false) {}
    static Arena measure() { return Arena(); }

    template <class T>
    T* take(std::int64_t count) {
        const std::size_t begin = used_;
        used_ += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
        if (measuring_) return nullptr;
        if (used_ > bytes_) {
            throw std::invalid_argument("the workspace has " + std::to_string(bytes_) + " bytes, expected at least " +
                                        std::to_string(used_));
        }
        return reinterpret_cast<T*>(base_ + begin);
    }
    bool measuring() const { return measuring_; }
    std::size_t used() const { return used_; }

   private:
    static constexpr std::size_t alignment = 256;

    Arena() : base_(nullptr), bytes_(0), measuring_(true) {}

    char* base_;
    std::size_t bytes_;
    bool measuring_;
    std::size_t used_ = 0;
};

struct Context {
    Stream stream;
    const Device& device;
    Arena arena;
};

}  // namespace fpes
