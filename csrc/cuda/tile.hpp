// A block's tile of a matrix product, in registers: what every kernel that multiplies is made of.
//
//                                b, in shared memory: [depth][columns]
//                               +--------+--------+--------+--------+
//                             k |  warp column 0  |  warp column 1  |
//      a, in shared memory:     +--------+--------+--------+--------+
//      [depth][rows + pad]
//           k                   +--------+--------+--------+--------+
//      +----------+             | lanes_m x lanes_n |                |    A lane's accumulators are `tm` rows times
//      `tn` | warp     |             | lanes, each       |                |    columns: four side by side, and the next
//      four | row 0    |             | tm x tn           |                |    lanes_m * 4 rows or lanes_n * 4 columns
//      on:
//      +----------+             +-------------------+----------------+
//      | warp     |             |                   |                |         c c c c . . . . c c c c . . . .
//      | row 1    |             |                   |                |         c c c c . . . . c c c c . . . .
//      +----------+             +-------------------+----------------+         ...
//
// Why this shape. The contract gives each element one chain of multiply-adds along k, so a lane needs many elements to
// hide the latency of a chain, and tm x tn of them use each value read from shared memory tn or tm times: 8 x 16 is 128
// multiply-adds for 6 loads of 16 bytes.
//
// Both operands lie with a k's values side by side, so that a k's fragment, tm + tn values, is read by 16-byte loads
// and the next k's fragment into other registers while this one is multiplied.
//
// Lanes are interleaved: neighbours n, n ^ 1 have the same columns, and of four lanes n, n ^ 1, n ^ 2, n ^ 3 there are
// no more than two different addresses in either operand: then a 16-byte load of a warp is two accesses, else four.
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
    static_assert(lanes_m == 1 || lanes_m == 2 || lanes_m == 4, "the lowest bit of a lane's row is that of the lane");
    static_assert(tm % 4 == 0 && tn % 4 == 0, "rows and columns are read four at a time");
    static_assert(tm * tn <= 128, "accumulators, fragments and addresses of a lane must fit 255 registers");

    static FPES_DEVICE int warp() { return thread_index() / 32; }
    static FPES_DEVICE int lane() { return thread_index() % 32; }
    static FPES_DEVICE int lane_row() {
        return lanes_m == 1 ? 0 : lanes_m == 2 ? lane() % 2 : lane() % 2 + lane() / 16 * 2;
    }
    static FPES_DEVICE int lane_column() { return (lanes_m == 1 ? lane() : lane() / 2) % lanes_n; }
    // The first of the lane's rows and columns, and of its warp's columns.
    static FPES_DEVICE int first_row() { return warp() / warps_n * (lanes_m * tm) + lane_row() * 4; }
    static FPES_DEVICE int warp_column() { return warp() % warps_n * (lanes_n * tn); }
    static FPES_DEVICE int first_column() { return warp_column() + lane_column() * 4; }
    // The i-th row and the j-th column.
    static FPES_DEVICE int row(int i) { return first_row() + i / 4 * (lanes_m * 4) + i % 4; }
    static FPES_DEVICE int column(int j) { return first_column() + j / 4 * (lanes_n * 4) + j % 4; }
};

// Floats from one k of a left operand to the next. With four more than there are rows, eight k's of four rows, which
// are written together where rows are turned into columns, lie in 32 different banks.
FPES_INLINE constexpr int padded_rows(int rows) { return rows + 4; }

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

// What a lane multiplies for one k: values of its rows and of its columns.
template <class T>
struct Fragment {
    float left[T::tm], right[T::tn];

    // a, b: of the lane's first row and column.
    FPES_DEVICE void load(const float* a, const float* b) {
        FPES_UNROLL
        for (int i = 0; i < T::tm; i += 4) load4(a + i * T::lanes_m, left + i);
        FPES_UNROLL
        for (int j = 0; j < T::tn; j += 4) load4(b + j * T::lanes_n, right + j);
    }
    // Column by column, down and up in turn: so each multiply-add has an operand in common with the one before, which
    // the register file then need not deliver again.
    template <class Mode>
    FPES_DEVICE void multiply(Accumulators<T>& acc) const {
        FPES_UNROLL
        for (int j = 0; j < T::tn; ++j) {
            FPES_UNROLL
            for (int step = 0; step < T::tm; ++step) {
                const int i = j % 2 ? T::tm - 1 - step : step;
                acc.sum[i][j] = Mode::fma(left[i], right[j], acc.sum[i][j]);
            }
        }
    }
};

// sum += a b for the last few k's. They can't be rounded up with zeros, for -0 + 0 is +0.
template <class T, class Mode>
FPES_DEVICE void multiply_rest(const float* a, const float* b, int depth, Accumulators<T>& acc) {
    a += T::first_row();
    b += T::first_column();
    FPES_ROLLED
    for (int k = 0; k < depth; ++k) {
        Fragment<T> one;
        one.load(a + k * padded_rows(T::rows), b + k * T::columns);
        one.template multiply<Mode>(acc);
    }
}

// The whole blocks of multiply_blocks.
template <class T, class Mode, int depth, class Operands>
FPES_DEVICE void multiply_copying(Operands& operands, int whole, bool works, Fragment<T>& even, Accumulators<T>& acc) {
    constexpr int stride = padded_rows(T::rows);
    const auto left = [&](int block) { return operands.left(block) + T::first_row(); };
    const auto right = [&](int block) { return operands.right(block) + T::first_column(); };
    Fragment<T> odd;
    FPES_ROLLED
    for (int block = 0; block < whole; ++block) {
        const float* a = left(block);
        const float* b = right(block);
        operands.start(block + 1);
        if (works) {
            FPES_ROLLED
            for (int k = 2; k < depth; k += 2) {
                odd.load(a + stride, b + T::columns);
                even.template multiply<Mode>(acc);
                a += 2 * stride;
                b += 2 * T::columns;
                even.load(a, b);
                odd.template multiply<Mode>(acc);
            }
        }
        operands.finish(block + 1);
        if (works) {
            odd.load(a + stride, b + T::columns);
            even.template multiply<Mode>(acc);
        }
        operands.turn();
        if (works) {
            even.load(left(block + 1), right(block + 1));
            odd.template multiply<Mode>(acc);
        }
    }
}

// The same for operands that are drawn in the midst of multiply-adds, a part for every four k's: neither has a branch,
// so the compiler fills the time that a draw's long chain of operations takes with multiply-adds of the same warp. A
// warp without columns multiplies too, what nobody looks at, and keeps no other warp waiting: all warps of a scheduler
// have the same columns.
template <class T, class Mode, int depth, class Operands>
FPES_DEVICE void multiply_drawing(Operands& operands, int whole, Fragment<T>& even, Accumulators<T>& acc) {
    constexpr int stride = padded_rows(T::rows), parts = depth / 4;
    static_assert(depth % 4 == 0, "four k's for a draw");
    static_assert(4 % T::warps_n == 0, "a multiprocessor's four schedulers take warps in turn");
    Fragment<T> odd;
    FPES_ROLLED
    for (int block = 0; block < whole; ++block) {
        const float* a = operands.left(block) + T::first_row();
        const float* b = operands.right(block) + T::first_column();
        operands.start(block + 1);
        FPES_UNROLL
        for (int part = 0; part < parts; ++part) {
            operands.go_on(part);
            odd.load(a + stride, b + T::columns);
            even.template multiply<Mode>(acc);
            even.load(a + 2 * stride, b + 2 * T::columns);
            odd.template multiply<Mode>(acc);
            odd.load(a + 3 * stride, b + 3 * T::columns);
            even.template multiply<Mode>(acc);
            if (part == parts - 1) break;
            a += 4 * stride;
            b += 4 * T::columns;
            even.load(a, b);
            odd.template multiply<Mode>(acc);
        }
        operands.turn();
        even.load(operands.left(block + 1) + T::first_row(), operands.right(block + 1) + T::first_column());
        odd.template multiply<Mode>(acc);
    }
}

// sum += a b, k in order: the main loop of a product, over blocks of `depth` k's of which the next is made ready while
// one is multiplied. Operands has
//
//     left(block), right(block)   where a block is: [depth][padded_rows(T::rows)], [depth][T::columns]
//     start(block)                begins to make a block ready, finish(block) ends; copies may still be under way.
//                                 What is beyond the last block is nobody's interest
//     draws_between               whether go_on(part) draws, instead of finish (multiply_drawing)
//     turn()                      waits until what this thread has made ready is there, and for all other threads
//
// Block 0 is ready. A warp that doesn't work has no columns, but makes blocks ready (and see multiply_drawing).
//
// Two fragments take turns: one is loaded while the other is multiplied. So the threads meet before they multiply a
// block's last k, not after: whoever has its fragment is done with the block, and finds work on the other side. When
// the function returns, everybody is done with the operands.
//
// The loop over two k's, and the last two of a block, are 512 multiply-adds for the largest tile: they fit the
// instruction cache next to a scheduler.
template <class T, class Mode, int depth, class Operands>
FPES_DEVICE void multiply_blocks(Operands& operands, std::int64_t k_count, bool works, Accumulators<T>& acc) {
    static_assert(depth % 2 == 0, "two fragments take turns");
    const int whole = static_cast<int>(k_count / depth), rest = static_cast<int>(k_count % depth);
    Fragment<T> even;
    even.load(operands.left(0) + T::first_row(), operands.right(0) + T::first_column());
    if constexpr (Operands::draws_between) {
        multiply_drawing<T, Mode, depth>(operands, whole, even, acc);
    } else {
        multiply_copying<T, Mode, depth>(operands, whole, works, even, acc);
    }
    if (works && rest > 0) multiply_rest<T, Mode>(operands.left(whole), operands.right(whole), rest, acc);
    // Whole blocks end with a fragment of the next one, which may not be there: others write to its place after this.
    operands.turn();
}

// The same with one fragment, in few registers and little code: for operands that are costly to make.
template <class T, class Mode, int depth, class Operands>
FPES_DEVICE void multiply_blocks_simply(Operands& operands, int k_count, bool works, Accumulators<T>& acc) {
    FPES_ROLLED
    for (int block = 0, left = k_count; left > 0; ++block, left -= depth) {
        operands.start(block + 1);
        if (works) multiply_rest<T, Mode>(operands.left(block), operands.right(block), smaller(depth, left), acc);
        operands.turn();
    }
}

// The tile, as the left operand of another product: [column][stride], the first `columns` of it.
template <class T>
FPES_DEVICE void store_as_operand(const Accumulators<T>& acc, float* to, int stride, int columns) {
    to += T::first_column() * stride + T::first_row();
    FPES_UNROLL
    for (int j = 0; j < T::tn; ++j) {
        if (T::column(j) >= columns) continue;
        FPES_UNROLL
        for (int i = 0; i < T::tm; i += 4) {
            const float four[4] = {acc.sum[i][j], acc.sum[i + 1][j], acc.sum[i + 2][j], acc.sum[i + 3][j]};
            store4(to + (j / 4 * (T::lanes_n * 4) + j % 4) * stride + i * T::lanes_m, four);
        }
    }
}

// The tile, to rows of a matrix in global memory, of which some rows and columns may lie outside: those aren't written.
struct Window {
    float* data;  // of the tile's first row and column
    std::int64_t stride;
    int rows;
    int columns;
    // Whole groups of four columns lie at multiples of 16 bytes.
    FPES_DEVICE bool vectors() const { return stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0; }
};

template <class T>
FPES_DEVICE void store_rows(const Accumulators<T>& acc, const Window& window) {
    const bool vectors = window.vectors();
    FPES_UNROLL
    for (int i = 0; i < T::tm; ++i) {
        if (T::row(i) >= window.rows) continue;
        float* const to = window.data + T::row(i) * window.stride;
        FPES_UNROLL
        for (int j = 0; j < T::tn; j += 4) {
            const int left = window.columns - T::column(j);
            if (vectors && left >= 4) {
                store4(to + T::column(j), acc.sum[i] + j);
            } else {
                FPES_UNROLL
                for (int c = 0; c < 4; ++c) {
                    if (c < left) to[T::column(j) + c] = acc.sum[i][j + c];
                }
            }
        }
    }
}

// Further than any window walks is far enough.
FPES_DEVICE int within_int(std::int64_t left) { return static_cast<int>(left < 0x7fffffff ? left : 0x7fffffff); }

// A window of a row-major matrix that walks, on its way to shared memory. What lies outside the matrix becomes 0.
//
// A thread takes a piece of every rows_per_pass-th row. It keeps one address and how far the matrix reaches beyond it,
// so that a window's place costs few registers where accumulators need most of them.
template <int threads, int tile_rows, int per_row>
class Passes {
   protected:
    static constexpr int rows_per_pass = threads / per_row;
    static constexpr int passes = (tile_rows + rows_per_pass - 1) / rows_per_pass;
    static_assert(threads % per_row == 0, "a thread stays in its columns from pass to pass");
    static_assert(tile_rows % rows_per_pass == 0 || passes == 1, "passes are equal");

    Passes() = default;
    FPES_DEVICE Passes(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first_row,
                       std::int64_t first_column, int column)
        : from_(matrix + (first_row + my_row()) * columns + first_column + column),
          ld_(columns),
          rows_left_(within_int(rows - first_row) - my_row()),
          columns_left_(within_int(columns - first_column) - column) {}

    static FPES_DEVICE int my_row() { return thread_index() / per_row; }

    // Calls use(pass, from, row, there) for every pass: row counts from my_row(), and there is whether the matrix has
    // it.
    template <class Use>
    FPES_DEVICE void each(Use use) const {
        const float* from = from_;
        FPES_UNROLL
        for (int pass = 0; pass < passes; ++pass) {
            const int row = pass * rows_per_pass;
            if (tile_rows >= rows_per_pass || my_row() < tile_rows) use(pass, from, row, row < rows_left_);
            from += rows_per_pass * ld_;
        }
    }

    const float* from_;
    std::int64_t ld_;
    int rows_left_;
    int columns_left_;
};

// A right operand: a window [tile_rows][tile_columns] that walks down, `vector` floats at a time: 4 where rows of the
// matrix start at multiples of 16 bytes, else 1.
template <int threads, int tile_rows, int tile_columns, int vector>
class WindowCopy : Passes<threads, tile_rows, tile_columns / vector> {
    using Base = Passes<threads, tile_rows, tile_columns / vector>;
    static_assert(tile_columns % vector == 0, "a row of the window is a whole number of vectors");

   public:
    // The matrix has `rows` rows of `columns`, and the window starts at first_row, first_column.
    FPES_DEVICE WindowCopy(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first_row,
                           std::int64_t first_column)
        : Base(matrix, rows, columns, first_row, first_column, my_column()) {}

    // Starts to copy to rows that are `stride` floats apart, and moves down.
    FPES_DEVICE void start(float* shared, int stride = tile_columns) {
        shared += this->my_row() * stride + my_column();
        this->each([&](int, const float* from, int row, bool there) {
            copy_async<vector>(shared + row * stride, from, there && this->columns_left_ > 0);
        });
        this->from_ += tile_rows * this->ld_;
        this->rows_left_ -= tile_rows;
    }

   private:
    static FPES_DEVICE int my_column() { return thread_index() % (tile_columns / vector) * vector; }
};

// A left operand: a window [tile_rows][depth] that walks to the right, turned into [depth][stride], a float at a time.
// A warp copies eight k's of four rows: 32 bytes of each in global memory, 32 banks in shared memory.
template <int threads, int tile_rows, int depth>
class TurningCopy : Passes<threads, tile_rows, 8> {
    using Base = Passes<threads, tile_rows, 8>;
    static_assert(depth % 8 == 0, "a warp copies eight k's");

   public:
    TurningCopy() = default;
    // The matrix has `rows` rows of `columns`, and the window starts at first_row, first_column.
    FPES_DEVICE TurningCopy(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first_row,
                            std::int64_t first_column)
        : Base(matrix, rows, columns, first_row, first_column, my_k()) {}

    // Starts to copy.
    FPES_DEVICE void start(float* shared, int stride) const {
        shared += my_k() * stride + this->my_row();
        this->each([&](int, const float* from, int row, bool there) {
            FPES_UNROLL
            for (int k = 0; k < depth; k += 8) {
                copy_async<1>(shared + k * stride + row, from + k, there && k < this->columns_left_);
            }
        });
    }
    FPES_DEVICE void move_right() {
        this->from_ += depth;
        this->columns_left_ -= depth;
    }

   private:
    static FPES_DEVICE int my_k() { return thread_index() % 8; }
};

// The same by way of registers, four floats at a time, where rows of the matrix start at multiples of 16 bytes: fewer
// instructions, if there are registers for it.
template <int threads, int tile_rows, int depth>
class TurningLoad : Passes<threads, tile_rows, depth / 4> {
    using Base = Passes<threads, tile_rows, depth / 4>;

   public:
    FPES_DEVICE TurningLoad(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first_row,
                            std::int64_t first_column)
        : Base(matrix, rows, columns, first_row, first_column, my_k()) {}

    // Loads, and moves to the right.
    FPES_DEVICE void load() {
        this->each([&](int pass, const float* from, int, bool there) {
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) four_[pass][i] = 0.0f;
            if (there && this->columns_left_ > 0) load4(from, four_[pass]);
        });
        this->from_ += depth;
        this->columns_left_ -= depth;
    }
    FPES_DEVICE void store(float* shared, int stride) const {
        shared += my_k() * stride + this->my_row();
        this->each([&](int pass, const float*, int row, bool) {
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) shared[i * stride + row] = four_[pass][i];
        });
    }

   private:
    static FPES_DEVICE int my_k() { return thread_index() % (depth / 4) * 4; }

    float four_[Base::passes][4];
};

FPES_NAMESPACE_END
