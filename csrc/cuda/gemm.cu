// The matrix product c[m, n] = a[m, k] b[k, n], row-major, any size.
//
//                     n: 128
//                   +---------+                    A block of 4 warps computes 128 x 128 elements, a lane 8 x 16. It
//              k 16 | b       |   two buffers      walks along k 16 at a time: while one pair of buffers is multiplied,
//                   +---------+   of each          the next piece of a and b is copied into the other by cp.async,
//            k 16                                  behind the threads' backs. One barrier for every 16 k's.
//          +-----+  +---------+
//          |     |  |         |                    Why this shape: 2,048 multiply-adds a lane between barriers, for 96
// m: 128   | a   |  | c       |                    16-byte reads of shared memory and 8 copies. Two blocks fit on a
//          |     |  |         |                    multiprocessor, so one computes while the other waits. The second
//          +-----+  +---------+                    level cache gives 8 bytes a cycle and multiprocessor, a third of
//                                                  what it can.
//
// Where the result is so small that such tiles would leave multiprocessors idle, they are 64 x 128.
#include <type_traits>

#include "backend.hpp"
#include "extents.hpp"
#include "modes.hpp"
#include "tile.hpp"

FPES_NAMESPACE_BEGIN
namespace {

using LargeTile = Tile<4, 1, 4, 8, 8, 16>;
using SmallTile = Tile<2, 2, 4, 8, 8, 8>;

constexpr int depth = 16;  // k's in a buffer

template <class T>
constexpr int buffer_floats = depth * (padded_rows(T::rows) + T::columns);

// Tiles are numbered down strips of this many rows of tiles, so that blocks that run together share rows of a and
// columns of b in the second-level cache.
constexpr int strip = 16;

struct Place {
    std::int64_t row;
    std::int64_t column;
};
template <class T>
FPES_DEVICE Place place_of(int number, std::int64_t m, std::int64_t n) {
    const int tall = static_cast<int>(parts(m, T::rows)), wide = static_cast<int>(parts(n, T::columns));
    const int first = number / (strip * wide) * strip;
    const int height = smaller(strip, tall - first);
    const int within = number % (strip * wide);
    return {static_cast<std::int64_t>(first + within % height) * T::rows,
            static_cast<std::int64_t>(within / height) * T::columns};
}

// The blocks of a and b that a tile multiplies, in two buffers (multiply_blocks).
template <class T, int vector>
class Operands {
   public:
    static constexpr bool draws_between = false;
    FPES_DEVICE Operands(const Place& at, const float* a, const float* b, std::int64_t m, std::int64_t n,
                         std::int64_t k)
        : a_(a, m, k, at.row, 0), b_(b, k, n, 0, at.column) {}
    FPES_DEVICE const float* left(int block) const { return buffer(block); }
    FPES_DEVICE const float* right(int block) const { return buffer(block) + depth * padded_rows(T::rows); }
    FPES_DEVICE void start(int block) {
        b_.start(buffer(block) + depth * padded_rows(T::rows));
        if constexpr (vector == 4) {
            a_.load();
        } else {
            a_.start(buffer(block), padded_rows(T::rows));
            a_.move_right();
        }
        commit_copies();
    }
    FPES_DEVICE void finish(int block) const {
        if constexpr (vector == 4) a_.store(buffer(block), padded_rows(T::rows));
    }
    FPES_DEVICE void turn() const {
        wait_for_copies<0>();
        __syncthreads();
    }

   private:
    static FPES_DEVICE float* buffer(int block) { return dynamic_shared<float>() + block % 2 * buffer_floats<T>; }

    std::conditional_t<vector == 4, TurningLoad<T::threads, T::rows, depth>, TurningCopy<T::threads, T::rows, depth>>
        a_;
    WindowCopy<T::threads, depth, T::columns, vector> b_;
};

template <class T, class Mode, int vector>
__global__ __launch_bounds__(T::threads, 2) void gemm_kernel(const float* a, const float* b, float* c, std::int64_t m,
                                                             std::int64_t n, std::int64_t k) {
    const Place at = place_of<T>(block_index(), m, n);
    Operands<T, vector> operands(at, a, b, m, n, k);
    operands.start(0);
    operands.finish(0);
    operands.turn();
    Accumulators<T> acc;
    acc.clear();
    multiply_blocks<T, Mode, depth>(operands, k, true, acc);
    store_rows(acc, Window{c + at.row * n + at.column, n, within_int(m - at.row), within_int(n - at.column)});
}

template <class T, class Mode>
void launch_gemm(const Context& context, const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
                 std::int64_t k) {
    const Grid grid{parts(m, T::rows) * parts(n, T::columns)};
    constexpr int bytes = 2 * buffer_floats<T> * static_cast<int>(sizeof(float));
    const auto addresses = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b);
    const bool vectors = k % 4 == 0 && n % 4 == 0 && addresses % 16 == 0;
    launch(vectors ? gemm_kernel<T, Mode, 4> : gemm_kernel<T, Mode, 1>, grid, T::threads, bytes, context, a, b, c, m, n,
           k);
}

}  // namespace

void gemm(Context& context, Flush flush, const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
          std::int64_t k) {
    check_flush(flush);
    if (context.arena.measuring()) return;
    const bool large = parts(m, LargeTile::rows) * parts(n, LargeTile::columns) >= context.device.multiprocessors;
    in_product_mode(flush, [&](auto mode) {
        using Mode = decltype(mode);
        const auto run = large ? launch_gemm<LargeTile, Mode> : launch_gemm<SmallTile, Mode>;
        run(context, a, b, c, m, n, k);
    });
}

Extents gemm_extents() {
    return {{"gemm_rows", LargeTile::rows},
            {"gemm_columns", LargeTile::columns},
            {"gemm_small_rows", SmallTile::rows},
            {"gemm_small_columns", SmallTile::columns},
            {"gemm_depth", depth},
            {"gemm_strip", strip}};
}

FPES_NAMESPACE_END
