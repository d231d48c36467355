// Memory for vectors: aligned, not initialised, and freed at the end of the scope.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace fpes {

// A block of memory that starts at a cache line. Throws std::bad_alloc. A thread keeps freed blocks, within limits, and
// uses them again. Otherwise the memory would be new to the process in each call, and the first access to its pages
// took up to half of a short call.
void* take_block(std::size_t bytes);
void give_block(void* block, std::size_t bytes) noexcept;

template <class T>
class Buffer {
   public:
    explicit Buffer(std::size_t count) {
        if (count > static_cast<std::size_t>(-1) / 2 / sizeof(T)) throw std::bad_alloc();
        bytes_ = count * sizeof(T);
        data_ = static_cast<T*>(take_block(bytes_));
    }
    Buffer(Buffer&& other) noexcept : bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        std::swap(data_, other.data_);
        return *this;
    }
    ~Buffer() {
        if (data_) give_block(data_, bytes_);
    }

    T* data() { return data_; }
    T& operator[](std::size_t i) { return data_[i]; }

   private:
    std::size_t bytes_;
    T* data_;
};

}  // namespace fpes
