// Memory for vectors: aligned, not initialised, freed at the end of the scope.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fpes {

template <class T>
class Buffer {
   public:
    explicit Buffer(std::size_t count) {
        if (count > (static_cast<std::size_t>(-1) - page) / sizeof(T)) throw std::bad_alloc();
        const std::size_t bytes = count * sizeof(T);
        const std::size_t alignment = bytes < page ? line : page;
        const std::size_t rounded = (bytes + alignment) / alignment * alignment;
        data_.reset(static_cast<T*>(std::aligned_alloc(alignment, rounded)));
        if (!data_) throw std::bad_alloc();
#if defined(__linux__)
        // A call's large buffers are new to the process each time. In small pages, the faults of first touching them
        // would take a tenth of a short call.
        if (alignment == page) madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
    }
    T* data() { return data_.get(); }
    T& operator[](std::size_t i) { return data_.get()[i]; }

   private:
    static constexpr std::size_t line = 64;
    static constexpr std::size_t page = std::size_t{2} << 20;  // a large one

    struct Free {
        void operator()(T* p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace fpes
