// The engine calls kernels: it knows the instruction set, the flush mode, and which operations belong to the matrix
// product and which lie outside it. Every call sets the thread's floating-point mode and puts it back.
#pragma once

#include "../common/flush.hpp"
#include "../common/fp_mode.hpp"
#include "../common/network.hpp"
#include "buffer.hpp"
#include "kernels.hpp"

namespace fpes {

// A matrix in panels that owns its memory, with a vector's worth of rows to spare: kernels that take a row to a lane
// read that far.
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
    Engine(const Kernels& kernels, Flush flush) : kernels_(kernels), flush_(flush) {}

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
    // Everywhere else.
    template <class... Parameters, class... Arguments>
    void elementwise(void (*ModeKernels::*kernel)(Parameters...), Arguments... arguments) const {
        call(elementwise_flushes(flush_), kernel, arguments...);
    }
    // Arithmetic about the network rather than in it (gradients): never flushed.
    template <class... Parameters, class... Arguments>
    void outside(void (*ModeKernels::*kernel)(Parameters...), Arguments... arguments) const {
        call(false, kernel, arguments...);
    }

   private:
    template <class... Parameters, class... Arguments>
    void call(bool ftz, void (*ModeKernels::*kernel)(Parameters...), Arguments... arguments) const {
        const FpMode mode(ftz && kernels_.hardware_flush);
        ((ftz ? kernels_.ftz : kernels_.ieee).*kernel)(arguments...);
    }

    const Kernels& kernels_;
    Flush flush_;
};

}  // namespace fpes
