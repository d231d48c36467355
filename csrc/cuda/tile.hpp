// A block's tile of a matrix product, in registers: what every kernel that multiplies is made of.
//
//                                b, in shared memory: [depth][columns]
//                               +--------+--------+--------+--------+
//                             k |  warp column 0  |  warp column 1  |
//      a, in shared memory:     +--------+--------+--------+--------+
//      [rows][depth + pad]
//      +----------+             +--------+--------+--------+--------+
//      | warp     |             | lanes_m x lanes_n |                |    A lane's accumulators are `tm` rows, lanes_m
//      | row 0    |             | lanes, each       |                |    apart, times `tn` columns, four side by side
//      |          |             | tm x tn           |                |    and the next four lanes_n * 4 further on:
//      +----------+             +-------------------+----------------+
//      | warp     |             |                   |                |         c c c c . . . . c c c c . . . .
//      | row 1    |             |                   |                |         . . . . . . . . . . . . . . . .
//      +----------+             +-------------------+----------------+         c c c c . . . . c c c c . . . .
//
// Why this shape. The contract gives each element one chain of multiply-adds along k, so a lane needs many elements to
// hide the latency of a chain, and tm x tn of them use each value read from shared memory tn or tm times: 8 x 16 is 128
// multiply-adds for 6 loads of 16 bytes. Both operands are read by vectors of four without a bank conflict. b: the
// lanes of a warp row read 16 bytes each, side by side, and all warp rows' lanes the same ones. a: a lane reads four
// k's of a row, and lanes_m rows lie an odd number of 16-byte units apart, so that up to eight of them are in different
// banks. So the left operand needs no transposition, and both can be filled by 16-byte copies.
#pragma once

#include "intrinsics.hpp"

FPES_NAMESPACE_BEGIN

template <int warps_m_, int warps_n_, int lanes_m_, int lanes_n_, int tm_, int tn_>
struct Tile {
    static constexpr int warps_m = warps_m_, warps_n = warps_n_, lanes_m = lanes_m_, lanes_n = lanes_n_;
    static constexpr int tm = tm_, tn = tn_;
    static constexpr int threads = 32 * warps_m * warps_n;
    static constexpr int rows = warps_m * lanes_m * tm;
    static constexpr int columns = warps_n * lanes_n * tn;

    static_assert(lanes_m * lanes_n == 32, "a warp's lanes are lanes_m x lanes_n");
    static_assert(tn % 4 == 0, "columns are read four at a time");
    static_assert(lanes_m <= 8, "nine rows of 16 bytes can't lie in different banks");
    static_assert(tm * tn <= 128, "accumulators, operands and addresses of a lane must fit 255 registers");

    static FPES_DEVICE int warp() { return thread_index() / 32; }
    static FPES_DEVICE int lane() { return thread_index() % 32; }
    // The first of the lane's rows and columns.
    static FPES_DEVICE int first_row() { return warp() / warps_n * (lanes_m * tm) + lane() / lanes_n; }
    static FPES_DEVICE int first_column() { return warp() % warps_n * (lanes_n * tn) + lane() % lanes_n * 4; }
    // The i-th row and the j-th column.
    static FPES_DEVICE int row(int i) { return first_row() + i * lanes_m; }
    static FPES_DEVICE int column(int j) { return first_column() + j / 4 * (lanes_n * 4) + j % 4; }
};

// Floats from one row of a left operand to the next, so that rows lie an odd number of 16-byte units apart.
FPES_INLINE constexpr int padded_stride(int columns) { return (columns + 7) / 8 * 8 + 4; }

template <class T>
struct Accumulators {
    float sum[T::tm][T::tn];

    FPES_DEVICE void clear() {
        FPES_UNROLL
        for (int i = 0; i < T::tm; ++i) {
            FPES_UNROLL
            for (int j = 0; j < T::tn; ++j) sum[i][j] = 0.0f;
        }
    }
};

// sum += a b for `depth` k's, a multiple of 4, in order. a: row 0 of the tile, the first k. b: [depth][T::columns].
//
// Four k's are 4 tm tn multiply-adds, 512 for the largest tile: so much code fits the instruction cache next to a
// scheduler, more doesn't, so the loop over fours stays a loop. In its last quarter, where a row's four values have all
// been used, the next four take their registers; after the last k they come from the padding, and nobody uses them.
template <class T, class Mode, int depth>
FPES_DEVICE void multiply_block(const float* a, int a_stride, const float* b, Accumulators<T>& acc) {
    static_assert(depth % 4 == 0, "the left operand is read four k's at a time");
    a += T::first_row() * a_stride;
    b += T::first_column();
    float left[T::tm][4];
    FPES_UNROLL
    for (int i = 0; i < T::tm; ++i) load4(a + i * T::lanes_m * a_stride, left[i]);
    FPES_ROLLED
    for (int k = 0; k < depth; k += 4) {
        FPES_UNROLL
        for (int step = 0; step < 4; ++step) {
            float right[T::tn];
            FPES_UNROLL
            for (int j = 0; j < T::tn; j += 4) load4(b + (k + step) * T::columns + j * T::lanes_n, right + j);
            FPES_UNROLL
            for (int i = 0; i < T::tm; ++i) {
                FPES_UNROLL
                for (int j = 0; j < T::tn; ++j) acc.sum[i][j] = Mode::fma(left[i][step], right[j], acc.sum[i][j]);
                if (step == 3) load4(a + i * T::lanes_m * a_stride + k + 4, left[i]);
            }
        }
    }
}

// The same for the last few k's. They can't be rounded up with zeros, for -0 + 0 is +0.
template <class T, class Mode>
FPES_DEVICE void multiply_rest(const float* a, int a_stride, const float* b, int depth, Accumulators<T>& acc) {
    a += T::first_row() * a_stride;
    b += T::first_column();
    FPES_ROLLED
    for (int k = 0; k < depth; ++k) {
        float right[T::tn];
        FPES_UNROLL
        for (int j = 0; j < T::tn; j += 4) load4(b + k * T::columns + j * T::lanes_n, right + j);
        FPES_UNROLL
        for (int i = 0; i < T::tm; ++i) {
            const float left = a[i * T::lanes_m * a_stride + k];
            FPES_UNROLL
            for (int j = 0; j < T::tn; ++j) acc.sum[i][j] = Mode::fma(left, right[j], acc.sum[i][j]);
        }
    }
}

// Where a tile of sums goes before it becomes activations: shared memory, or global where it doesn't fit. Some of its
// columns and rows may lie outside the matrix: then they aren't written.
struct Result {
    float* data;
    std::int64_t stride;
    int rows;
    int columns;
    FPES_DEVICE float* row(int i) const { return data + i * stride; }
};

template <class T>
FPES_DEVICE void store_sums(const Accumulators<T>& acc, const Result& result) {
    float* const to = result.row(T::first_row()) + T::first_column();
    // Whole groups of columns, each at a multiple of 16 bytes: always in shared memory, often in global memory.
    const bool vectors = result.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(result.data) % 16 == 0;
    FPES_UNROLL
    for (int i = 0; i < T::tm; ++i) {
        if (T::row(i) >= result.rows) break;
        FPES_UNROLL
        for (int j = 0; j < T::tn; j += 4) {
            float* const four = to + i * T::lanes_m * result.stride + j * T::lanes_n;
            const int left = result.columns - T::column(j);
            if (vectors && left >= 4) {
                store4(four, acc.sum[i] + j);
            } else {
                FPES_UNROLL
                for (int c = 0; c < 4; ++c) {
                    if (c < left) four[c] = acc.sum[i][j + c];
                }
            }
        }
    }
}

// Copies a walking window [tile_rows][tile_columns] of a row-major matrix to shared memory, `vector` floats at a time:
// 4 where rows of the matrix start at multiples of 16 bytes, else 1. What lies outside the matrix becomes 0.
//
// A thread copies the same columns of every rows_per_pass-th row. It keeps one address and how far the matrix reaches
// beyond it, so that a window's place costs few registers where accumulators need most of them.
template <int threads, int tile_rows, int tile_columns, int vector>
class WindowCopy {
   public:
    // The matrix has `rows` rows of `columns`, and the window starts at first_row, first_column.
    FPES_DEVICE WindowCopy(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first_row,
                           std::int64_t first_column)
        : matrix_(matrix),
          from_(matrix + (first_row + my_row()) * columns + first_column + my_column()),
          ld_(columns),
          rows_left_(clamped(rows - first_row) - my_row()),
          columns_left_(clamped(columns - first_column) - my_column()) {}

    FPES_DEVICE void start(float* shared, int stride) const {
        shared += my_row() * stride + my_column();
        FPES_UNROLL
        for (int pass = 0; pass < passes; ++pass) {
            const bool inside = pass * rows_per_pass < rows_left_ && columns_left_ > 0;
            if (tile_rows % rows_per_pass != 0 && pass * rows_per_pass + my_row() >= tile_rows) break;
            copy_async<vector>(shared + pass * rows_per_pass * stride,
                               inside ? from_ + pass * rows_per_pass * ld_ : matrix_, inside);
        }
    }
    FPES_DEVICE void move_right(int columns) {
        from_ += columns;
        columns_left_ -= columns;
    }
    FPES_DEVICE void move_down(int rows) {
        from_ += rows * ld_;
        rows_left_ -= rows;
    }

   private:
    static constexpr int per_row = tile_columns / vector;
    static constexpr int rows_per_pass = threads / per_row;
    static constexpr int passes = (tile_rows + rows_per_pass - 1) / rows_per_pass;
    static_assert(tile_columns % vector == 0, "a row of the window is a whole number of vectors");
    static_assert(threads % per_row == 0, "a thread stays in its columns from pass to pass");

    // Further than any window walks is far enough.
    static FPES_DEVICE int clamped(std::int64_t left) {
        return static_cast<int>(left < 0x7fffffff ? left : 0x7fffffff);
    }
    static FPES_DEVICE int my_row() { return thread_index() / per_row; }
    static FPES_DEVICE int my_column() { return thread_index() % per_row * vector; }

    const float* matrix_;
    const float* from_;
    std::int64_t ld_;
    int rows_left_;
    int columns_left_;
};

FPES_NAMESPACE_END
