// Operations that treat each element alone: the boundary between layers, scaling, and the primitives.
#pragma once

#include "../../common/elementary.hpp"
#include "panels.hpp"

FPES_NAMESPACE_BEGIN

// Calls body(row, offset of the vector's first column, is it worth computing) for all vectors of [rows, n] panels.
template <class F, class Body>
FPES_INLINE void for_each_vector(int rows, int n, Body body) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    for (int j = 0; j < n; j += width) {
        for (int row = 0; row < rows; ++row) {
            body(row, j, 0);
            if (n - j > lanes) body(row, j, lanes);
        }
    }
}

template <class F>
void boundary(Panels v, int rows, int n, Panels bias, float enter, float leave, Panels out) {
    const F enter_factor = splat<F>(enter), leave_factor = splat<F>(leave);
    for_each_vector<F>(rows, n, [&](int row, int j, int within) {
        const F sum = add(load<F>(panel_row<F>(v, row, j) + within), load<F>(panel_row<F>(bias, 0, j) + within));
        store(panel_row<F>(out, row, j) + within, mul(mul(sum, enter_factor), leave_factor));
    });
}

template <class F>
void scale(Panels v, int rows, int n, float factor, Panels out) {
    const F by = splat<F>(factor);
    for_each_vector<F>(rows, n, [&](int row, int j, int within) {
        store(panel_row<F>(out, row, j) + within, mul(load<F>(panel_row<F>(v, row, j) + within), by));
    });
}

template <class F>
void scale_rows(Panels v, int rows, int n, const float* factor, Panels out) {
    for_each_vector<F>(rows, n, [&](int row, int j, int within) {
        store(panel_row<F>(out, row, j) + within,
              mul(load<F>(panel_row<F>(v, row, j) + within), splat<F>(factor[row])));
    });
}

template <class F>
void subtract(Panels a, Panels b, int rows, int n, Panels out) {
    for_each_vector<F>(rows, n, [&](int row, int j, int within) {
        store(panel_row<F>(out, row, j) + within,
              sub(load<F>(panel_row<F>(a, row, j) + within), load<F>(panel_row<F>(b, row, j) + within)));
    });
}

template <class F>
void add_and_scale(Panels a, Panels b, int rows, int n, float factor, Panels out) {
    const F by = splat<F>(factor);
    for_each_vector<F>(rows, n, [&](int row, int j, int within) {
        const F sum = add(load<F>(panel_row<F>(a, row, j) + within), load<F>(panel_row<F>(b, row, j) + within));
        store(panel_row<F>(out, row, j) + within, mul(sum, by));
    });
}

// Applies body to up to `lanes` floats of an array at a time, the last of them by way of a full vector on the side.
template <class F, class Body>
FPES_INLINE void for_each_part(std::int64_t count, Body body) {
    constexpr int lanes = lanes_of<F>;
    std::int64_t i = 0;
    for (; i + lanes <= count; i += lanes) body(i, lanes);
    if (i < count) body(i, static_cast<int>(count - i));
}
template <class F>
FPES_INLINE F load_part(const float* p, int count) {
    if (count == lanes_of<F>) return load<F>(p);
    float side[lanes_of<F>] = {};
    std::memcpy(side, p, sizeof(float) * count);
    return load<F>(side);
}
template <class F>
FPES_INLINE void store_part(float* p, F a, int count) {
    if (count == lanes_of<F>) return store(p, a);
    float side[lanes_of<F>];
    store(side, a);
    std::memcpy(p, side, sizeof(float) * count);
}

template <class F>
void bias_add(const float* v, const float* bias, std::int64_t rows, std::int64_t n, float* out) {
    for (std::int64_t row = 0; row < rows; ++row, v += n, out += n) {
        for_each_part<F>(n, [&](std::int64_t j, int count) {
            store_part(out + j, add(load_part<F>(v + j, count), load_part<F>(bias + j, count)), count);
        });
    }
}

template <class F>
void multiply(const float* v, float factor, std::int64_t count, float* out) {
    const F by = splat<F>(factor);
    for_each_part<F>(count,
                     [&](std::int64_t i, int part) { store_part(out + i, mul(load_part<F>(v + i, part), by), part); });
}

struct ExpOf {
    template <class F>
    static FPES_INLINE F of(F x) {
        return exp(x);
    }
};
struct ExpOfNonpositive {
    template <class F>
    static FPES_INLINE F of(F x) {
        return exp_of_nonpositive(x);
    }
};
struct LogOf {
    template <class F>
    static FPES_INLINE F of(F x) {
        return log(x);
    }
};
template <class F, class Function>
void map(const float* x, std::int64_t count, float* out) {
    for_each_part<F>(
        count, [&](std::int64_t i, int part) { store_part(out + i, Function::of(load_part<F>(x + i, part)), part); });
}

FPES_NAMESPACE_END
