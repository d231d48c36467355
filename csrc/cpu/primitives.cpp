#include "primitives.hpp"

#include <algorithm>
#include <atomic>
#include <thread>

#include "parallel.hpp"

namespace fpes {
namespace {

// Rows of the left operand that one thread takes at a time: some k's of them stay in the second-level cache while the
// panels of the right operand pass by.
constexpr std::int64_t gemm_rows = 96;
// And where these are all the rows: a panel of the right operand is multiplied as it is packed, and then forgotten.
constexpr std::int64_t few_rows = 128;
// Panels that one thread packs at a time.
constexpr std::int64_t packed_panels = 8;
// Bytes of the right operand's columns that a thread packs for itself, at most: a share of the third-level cache.
constexpr std::int64_t most_stripe_bytes = std::int64_t{4} << 20;
// Multiply-adds that are worth another thread, some 20 us of them; and how many take as long as to pack one element.
constexpr std::int64_t least_work = std::int64_t{1} << 21;
constexpr std::int64_t work_of_packing = 14;
// Rows of outputs whose losses one thread finds at a time: a multiple of any vector's lanes.
constexpr std::int64_t loss_rows = 64;
// Floats that an elementwise operation gives to one thread at a time.
constexpr std::int64_t elementwise_grain = 1 << 16;

// Work that other threads wait for, once each piece of it is in progress.
class Pending {
   public:
    explicit Pending(std::int64_t pieces) : left_(pieces) {}
    void done() { left_.fetch_sub(1, std::memory_order_release); }
    void wait() const {
        while (left_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    }

   private:
    std::atomic<std::int64_t> left_;
};

// Parts of `count`, nearly equal: a multiple of `step` each, and as many for every thread, at most `most` long.
std::int64_t even_part(std::int64_t count, int threads, std::int64_t most, std::int64_t step) {
    const std::int64_t parts = (count + most * threads - 1) / (most * threads) * threads;
    return (count + parts * step - 1) / (parts * step) * step;
}

struct Operands {
    const float* a;
    const float* b;
    float* c;
    std::int64_t m, n, k;
};

// Some rows of a product, a part of k at a time, for some columns. Where the right operand's last panel isn't full its
// columns are computed aside, for whole vectors are written.
class GemmBlock {
   public:
    GemmBlock(const Engine& engine, const Operands& operands, std::int64_t most_rows)
        : engine_(engine),
          operands_(operands),
          depth_(even_part(operands.k, 1, engine.kernels().part_depth, engine.width())),
          left_(engine.matrix(most_rows, std::min(operands.k, depth_))),
          last_(engine.matrix(most_rows, engine.width())) {}

    // Rows row ... row + rows - 1; columns begin ... end - 1, whose packed panels are `right`. begin is the first of a
    // panel. packs: they are not packed yet, and will be. A stride of 0: each takes the place of the one before.
    void run(std::int64_t row, int rows, std::int64_t begin, std::int64_t end, Panels right, bool packs) {
        const std::int64_t k = operands_.k, n = operands_.n, width = engine_.width();
        for (std::int64_t first = 0; first < k; first += depth_) {
            const auto depth = static_cast<int>(std::min(depth_, k - first));
            engine_.kernels().pack(operands_.a + row * k + first, k, rows, depth, left_.view());
            for (std::int64_t j = begin; j < end; j += width) {
                const auto columns = static_cast<int>(std::min(width, end - j));
                float* const panel = engine_.at_row(engine_.at_column(right, j - begin), first).data;
                const float* unpacked = packs ? operands_.b + first * n + j : nullptr;
                if (packs && columns < width) {
                    engine_.kernels().pack(unpacked, n, depth, columns, {panel, right.stride});
                    unpacked = nullptr;
                }
                const float* const next = j + width < end ? panel + right.stride : right.data;
                multiply(row, rows, j, columns, {panel, unpacked, n, next}, first > 0, depth);
            }
        }
        const std::int64_t whole = end - end % engine_.kernels().lanes, last = whole / width * width;
        if (whole < end) {
            engine_.kernels().unpack(last_.view(), rows, static_cast<int>(end - last), operands_.c + row * n + last, n);
        }
    }

   private:
    void multiply(std::int64_t row, int rows, std::int64_t j, int columns, RightPart right, bool goes_on, int depth) {
        const std::int64_t n = operands_.n;
        const bool whole = columns % engine_.kernels().lanes == 0;
        const Panels left = left_.view();
        engine_.in_product(&ModeKernels::product_part, left.data, left.stride, right, goes_on,
                           whole ? operands_.c + row * n + j : last_.view().data,
                           whole ? n : std::int64_t{engine_.width()}, rows, columns, depth);
    }

    const Engine& engine_;
    const Operands& operands_;
    std::int64_t depth_;
    PanelMatrix left_;  // rows and k's that are being multiplied
    PanelMatrix last_;
};

void pack_columns(const Engine& engine, const Operands& operands, std::int64_t begin, std::int64_t end, Panels to) {
    engine.kernels().pack(operands.b + begin, operands.n, static_cast<int>(operands.k), static_cast<int>(end - begin),
                          to);
}

// Many rows: threads share the right operand, which each packs some of, and divide the rows. Packing and multiplying
// are items of one queue, for to wake the threads twice takes longer than to pack a small operand. Items are handed out
// in order: when the first block of rows is taken, somebody packs the last panels.
void gemm_by_rows(const Engine& engine, int threads, const Operands& operands) {
    const std::int64_t m = operands.m, n = operands.n;
    PanelMatrix right = engine.matrix(operands.k, n);
    const std::int64_t packed = packed_panels * engine.width(), pieces = (n + packed - 1) / packed;
    const std::int64_t block = even_part(m, threads, gemm_rows, 1);
    Pending packing(pieces);
    parallel(threads, pieces + (m + block - 1) / block, [&](WorkQueue& queue) {
        GemmBlock rows(engine, operands, block);
        for (std::int64_t item; queue.take(item);) {
            if (item < pieces) {
                const std::int64_t begin = item * packed;
                pack_columns(engine, operands, begin, std::min(n, begin + packed),
                             engine.at_column(right.view(), begin));
                packing.done();
            } else {
                packing.wait();
                const std::int64_t row = (item - pieces) * block;
                rows.run(row, static_cast<int>(std::min(block, m - row)), 0, n, right.view(),
                         /*packs=*/false);
            }
        }
    });
}

// Few rows: threads divide the columns, and nobody waits for what another has packed, nor fetches it from the other's
// cache. Each packs all rows, which are few. The first of them multiply panels as they pack them.
void gemm_by_columns(const Engine& engine, int threads, const Operands& operands) {
    const std::int64_t m = operands.m, n = operands.n, width = engine.width();
    const std::int64_t most = most_stripe_bytes / (operands.k * static_cast<std::int64_t>(sizeof(float)));
    const std::int64_t stripe = even_part(n, threads, std::max(most, packed_panels * width), width);
    const bool few = m <= few_rows;
    const std::int64_t block = few ? m : even_part(m, 1, gemm_rows, 1);
    parallel(threads, (n + stripe - 1) / stripe, [&](WorkQueue& queue) {
        GemmBlock rows(engine, operands, block);
        PanelMatrix packed = engine.matrix(operands.k, few ? width : stripe);
        const Panels right = few ? Panels{packed.view().data, 0} : packed.view();
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t begin = item * stripe, end = std::min(n, begin + stripe);
            for (std::int64_t row = 0; row < m; row += block) {
                rows.run(row, static_cast<int>(std::min(block, m - row)), begin, end, right, /*packs=*/row == 0);
            }
        }
    });
}

}  // namespace

void gemm(const Engine& engine, int threads, const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
          std::int64_t k) {
    const Operands operands = {a, b, c, m, n, k};
    const double work = static_cast<double>(k) * static_cast<double>(n) * static_cast<double>(m + work_of_packing);
    const auto busy = static_cast<int>(std::clamp(work / least_work, 1.0, static_cast<double>(threads)));
    if (m < n) {
        gemm_by_columns(engine, busy, operands);
    } else {
        gemm_by_rows(engine, busy, operands);
    }
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

void losses(const Engine& engine, int threads, const float* outputs, std::int64_t rows, std::int64_t count,
            const Targets& targets, float* losses) {
    const auto n = static_cast<int>(count);
    parallel(threads, (rows + loss_rows - 1) / loss_rows, [&](WorkQueue& queue) {
        PanelMatrix tile = engine.matrix(loss_rows, count);
        Buffer<float> found(loss_rows);
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t first = item * loss_rows;
            const auto height = static_cast<int>(std::min(loss_rows, rows - first));
            engine.kernels().pack(outputs + first * count, n, height, n, tile.view());
            engine.elementwise(&ModeKernels::losses, targets, first, tile.view(), height, n, found.data());
            std::copy_n(found.data(), height, losses + first);
        }
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
