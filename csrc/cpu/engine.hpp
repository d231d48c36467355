// The engine calls kernels. It knows the instruction set and the flush mode, and distinguishes operations inside a
// matrix product from operations outside. Every call sets the thread's floating-point mode and restores it.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../common/flush.hpp"
#include "../common/fp_mode.hpp"
#include "../common/program.hpp"
#include "buffer.hpp"
#include "interruption.hpp"
#include "kernels.hpp"

namespace fpes {

// A matrix in panels that owns its memory. It has spare rows for one vector, because kernels with one row in each lane
// read beyond the last row.
class PanelMatrix {
   public:
    PanelMatrix(const Kernels& kernels, std::int64_t rows, std::int64_t columns)
        : width_(kernels.width),
          stride_(static_cast<std::size_t>(rows + kernels.lanes) * kernels.width),
          buffer_(static_cast<std::size_t>((columns + kernels.width - 1) / kernels.width) * stride_) {}
    Panels view() { return {buffer_.data(), stride_}; }
    // The same panels from row `row` on.
    Panels from_row(std::int64_t row) { return {buffer_.data() + row * width_, stride_}; }

   private:
    int width_;
    std::size_t stride_;
    Buffer<float> buffer_;
};

class Engine {
   public:
    Engine(const Kernels& kernels, Flush flush)
        : kernels_(kernels), flush_(flush), interruption_(Interruption::current()) {}

    const Kernels& kernels() const { return kernels_; }
    Flush flush() const { return flush_; }
    int width() const { return kernels_.width; }

    // The same panels from row `row` or column `column` on; `column` is a multiple of their width.
    Panels at_row(Panels panels, std::int64_t row) const { return {panels.data + row * width(), panels.stride}; }
    Panels at_column(Panels panels, std::int64_t column) const {
        return {panels.data + column / width() * static_cast<std::int64_t>(panels.stride), panels.stride};
    }

    PanelMatrix matrix(std::int64_t rows, std::int64_t columns) const { return {kernels_, rows, columns}; }

    // Inside a matrix product. in_product(&ModeKernels::product, ...) calls that kernel in the product's mode.
    template <class... Parameters, class... Arguments>
    void in_product(void (*ModeKernels::*kernel)(Parameters...), Arguments... arguments) const {
        call(product_flushes(flush_), kernel, arguments...);
    }
    // Outside a matrix product.
    template <class... Parameters, class... Arguments>
    void elementwise(void (*ModeKernels::*kernel)(Parameters...), Arguments... arguments) const {
        call(elementwise_flushes(flush_), kernel, arguments...);
    }
    // Arithmetic that isn't part of the network (gradients): never flushed.
    template <class... Parameters, class... Arguments>
    void outside(void (*ModeKernels::*kernel)(Parameters...), Arguments... arguments) const {
        call(false, kernel, arguments...);
    }

   private:
    using Product = void (*)(Panels, Panels, Panels, Panels, int, int, int);
    using ProductSkipping = void (*)(Panels, Panels, Panels, int, int, int, int, std::int32_t*);
    using ProductNonzeros = void (*)(Nonzeros, int, Panels, Panels, Panels, Panels, int, int, int);

    template <class... Parameters, class... Arguments>
    void call(bool ftz, void (*ModeKernels::*kernel)(Parameters...), Arguments... arguments) const {
        using Kernel = void (*)(Parameters...);
        auto part = [&](Parameters... values) {
            if (interruption_) interruption_->check(work_of(values...));
            const KernelMode mode(ftz && kernels_.hardware_flush);
            ((ftz ? kernels_.ftz : kernels_.ieee).*kernel)(values...);
        };
        if constexpr (std::is_same_v<Kernel, Product>) {
            product_in_parts(part, kernel == &ModeKernels::product_transposed, arguments...);
        } else if constexpr (std::is_same_v<Kernel, ProductSkipping>) {
            skipping_in_parts(part, arguments...);
        } else if constexpr (std::is_same_v<Kernel, ProductNonzeros>) {
            nonzeros_in_parts(part, arguments...);
        } else {
            part(arguments...);
        }
    }

    // Multiply-adds of a product; other kernels are short.
    static std::int64_t work_of(Panels, Panels, Panels, Panels, int m, int n, int k) { return std::int64_t{m} * n * k; }
    static std::int64_t work_of(Panels, Panels, Panels, int samples, int members, int n, int k, std::int32_t*) {
        return std::int64_t{samples} * members * n * k;
    }
    static std::int64_t work_of(Nonzeros, int, Panels, Panels, Panels, Panels, int m, int n, int k) {
        return std::int64_t{m} * n * k;
    }
    static std::int64_t work_of(const float*, std::size_t, const float*, const float*, bool, float*, std::int64_t,
                                int m, int columns, int k) {
        return std::int64_t{m} * columns * k;
    }
    template <class... Others>
    static std::int64_t work_of(Others...) {
        return 0;
    }

    // A product of very large matrices takes long, and an interrupt is noticed only between kernels. So the product is
    // divided into parts of 0.1 to 0.2 seconds, by columns of its result, and by rows if one panel is too long. Each
    // element has its own chain, so this changes no bits.
    template <class Part>
    void product_in_parts(Part part, bool transposed, Panels a, Panels b, Panels init, Panels c, int m, int n,
                          int k) const {
        const int columns = part_of(n, std::int64_t{m} * k);
        const int rows = columns > width() ? m : part_of(m, std::int64_t{columns} * k);
        for (int j = 0; j < n; j += columns) {
            for (int i = 0; i < m; i += rows) {
                part(transposed ? at_column(a, i) : at_row(a, i), at_column(b, j), at(init, i, j), at(c, i, j),
                     std::min(rows, m - i), std::min(columns, n - j), k);
            }
        }
    }
    template <class Part>
    void skipping_in_parts(Part part, Panels a, Panels b, Panels c, int samples, int members, int n, int k,
                           std::int32_t* scratch) const {
        const int columns = part_of(n, std::int64_t{samples} * members * k);
        for (int j = 0; j < n; j += columns) {
            part(a, at_column(b, j), at_column(c, j), samples, members, std::min(columns, n - j), k, scratch);
        }
    }
    template <class Part>
    void nonzeros_in_parts(Part part, Nonzeros terms, int first_run, Panels a, Panels b, Panels init, Panels c, int m,
                           int n, int k) const {
        const int columns = part_of(n, std::int64_t{m} * k);
        for (int j = 0; j < n; j += columns) {
            part(terms, first_run, a, at_column(b, j), at(init, 0, j), at(c, 0, j), m, std::min(columns, n - j), k);
        }
    }
    Panels at(Panels panels, int i, int j) const { return panels.data ? at_row(at_column(panels, j), i) : panels; }

    // The number of columns or rows, of n, for one kernel call, if each costs `multiply_adds`: all of them, or a
    // multiple of the panels' width.
    int part_of(int n, std::int64_t multiply_adds) const {
        const std::int64_t most = kernels_.hardware_flush ? std::int64_t{1} << 32 : std::int64_t{1} << 25;
        const std::int64_t step = width();
        if (n * multiply_adds <= most || n <= step) return n;
        return static_cast<int>(std::clamp(most / multiply_adds / step * step, step, std::int64_t{n}));
    }

    const Kernels& kernels_;
    Flush flush_;
    Interruption* interruption_;
};

}  // namespace fpes
