// Memory for vectors: aligned to cache lines, zeroed, freed at the end of the scope.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace fpes {

template <class T>
class Buffer {
   public:
    explicit Buffer(std::size_t count) {
        constexpr std::size_t line = 64;
        if (count > (static_cast<std::size_t>(-1) - line) / sizeof(T)) throw std::bad_alloc();
        const std::size_t bytes = (count * sizeof(T) + line - 1) / line * line + line;
        data_.reset(static_cast<T*>(std::aligned_alloc(line, bytes)));
        if (!data_) throw std::bad_alloc();
        std::uninitialized_value_construct_n(data_.get(), count);
    }
    T* data() { return data_.get(); }
    T& operator[](std::size_t i) { return data_.get()[i]; }

   private:
    struct Free {
        void operator()(T* p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
};

}  // namespace fpes
