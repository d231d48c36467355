#include "primitives.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace fpes {
namespace {

// Rows of a that one thread takes at a time. They stay in the second-level cache while the panels of b pass by.
constexpr std::int64_t gemm_rows = 96;
// Floats that an elementwise operation gives to one thread at a time.
constexpr std::int64_t elementwise_grain = 1 << 16;

}  // namespace

void gemm(const Engine& engine, int threads, const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
          std::int64_t k) {
    const Kernels& kernels = engine.kernels();
    const std::int64_t width = kernels.width;
    PanelMatrix right = engine.matrix(k, n);
    parallel_ranges(threads, n, width, [&](std::int64_t begin, std::int64_t end) {
        Panels panel = right.view();
        panel.data += begin / width * panel.stride;
        kernels.pack(b + begin, n, static_cast<int>(k), static_cast<int>(end - begin), panel);
    });
    // Every thread gets as many rows as any other.
    const std::int64_t rounds = (m + gemm_rows * threads - 1) / (gemm_rows * threads);
    const std::int64_t block = (m + rounds * threads - 1) / (rounds * threads);
    parallel(threads, (m + block - 1) / block, [&](WorkQueue& queue) {
        PanelMatrix left = engine.matrix(block, k);
        PanelMatrix result = engine.matrix(block, width);
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t row = item * block;
            const int rows = static_cast<int>(std::min(block, m - row));
            kernels.pack(a + row * k, k, rows, static_cast<int>(k), left.view());
            for (std::int64_t j = 0; j < n; j += width) {
                const int columns = static_cast<int>(std::min(width, n - j));
                Panels panel = right.view();
                panel.data += j / width * panel.stride;
                engine.in_product(&ModeKernels::product, left.view(), panel, Panels{}, result.view(), rows, columns,
                                  static_cast<int>(k));
                kernels.unpack(result.view(), rows, columns, c + row * n + j, n);
            }
        }
    });
}

void bias_add(const Engine& engine, int threads, const float* v, const float* bias, float* out, std::int64_t rows,
              std::int64_t n) {
    const std::int64_t grain = std::max<std::int64_t>(1, elementwise_grain / n);
    parallel_ranges(threads, rows, grain, [&](std::int64_t begin, std::int64_t end) {
        engine.elementwise(&ModeKernels::bias_add, v + begin * n, bias, end - begin, n, out + begin * n);
    });
}

void multiply(const Engine& engine, int threads, const float* v, float factor, float* out, std::int64_t count) {
    parallel_ranges(threads, count, elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
        engine.elementwise(&ModeKernels::multiply, v + begin, factor, end - begin, out + begin);
    });
}

void multiply_add_chains(const Engine& engine, int threads, std::int64_t steps) {
    parallel(threads, threads, [&](WorkQueue& queue) {
        Buffer<float> out(engine.kernels().lanes);
        for (std::int64_t item; queue.take(item);) {
            engine.elementwise(&ModeKernels::multiply_add_chains, steps, out.data());
        }
    });
}

}  // namespace fpes
