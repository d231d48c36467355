// Several vectors as one, of any model of the vector concept (common/scalar.hpp).
//
// exp and log are chains of operations, each of which waits for the one before. A processor looks ahead for others to
// do meanwhile, but not far enough to find the next vector's chain. So the chains of `count` vectors are written side
// by side: operation by operation, which is the order that this type gives to code that doesn't know of it.
#pragma once

#include "../../common/scalar.hpp"

FPES_NAMESPACE_BEGIN

template <class V, int count>
struct Wide {
    V part[count];

    template <class Scalar>
    static FPES_INLINE Wide splat_of(Scalar x) {
        Wide result;
        for (V& each : result.part) each = splat<V>(x);
        return result;
    }
};
template <class M, int count>
struct WideMask {
    M part[count];
};

template <class F, int count>
struct VectorTraits<Wide<F, count>> {
    static constexpr int lanes = count * VectorTraits<F>::lanes;
    using U = Wide<UintOf<F>, count>;
    using Mask = WideMask<MaskOf<F>, count>;
};

// One result for each part: of(i) is part i.
template <class V, int count, class Of>
FPES_INLINE Wide<V, count> each_part(Of of) {
    Wide<V, count> result;
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) result.part[i] = of(i);
    return result;
}

template <class V, int count>
FPES_INLINE Wide<V, count> add(const Wide<V, count>& a, const Wide<V, count>& b) {
    return each_part<V, count>([&](int i) { return add(a.part[i], b.part[i]); });
}
template <class V, int count>
FPES_INLINE Wide<V, count> sub(const Wide<V, count>& a, const Wide<V, count>& b) {
    return each_part<V, count>([&](int i) { return sub(a.part[i], b.part[i]); });
}
template <class V, int count>
FPES_INLINE Wide<V, count> mul(const Wide<V, count>& a, const Wide<V, count>& b) {
    return each_part<V, count>([&](int i) { return mul(a.part[i], b.part[i]); });
}
template <class V, int count>
FPES_INLINE Wide<V, count> fma(const Wide<V, count>& a, const Wide<V, count>& b, const Wide<V, count>& c) {
    return each_part<V, count>([&](int i) { return fma(a.part[i], b.part[i], c.part[i]); });
}
template <class V, int count>
FPES_INLINE WideMask<MaskOf<V>, count> less(const Wide<V, count>& a, const Wide<V, count>& b) {
    WideMask<MaskOf<V>, count> result;
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) result.part[i] = less(a.part[i], b.part[i]);
    return result;
}
template <class V, class M, int count>
FPES_INLINE Wide<V, count> select(const WideMask<M, count>& mask, const Wide<V, count>& a, const Wide<V, count>& b) {
    return each_part<V, count>([&](int i) { return select(mask.part[i], a.part[i], b.part[i]); });
}
template <class V, int count>
FPES_INLINE Wide<V, count> larger(const Wide<V, count>& a, const Wide<V, count>& b) {
    return each_part<V, count>([&](int i) { return larger(a.part[i], b.part[i]); });
}
template <class F, int count>
FPES_INLINE Wide<UintOf<F>, count> as_u32(const Wide<F, count>& a) {
    return each_part<UintOf<F>, count>([&](int i) { return as_u32(a.part[i]); });
}
template <class U, int count>
FPES_INLINE auto as_f32(const Wide<U, count>& a) {
    return each_part<decltype(as_f32(a.part[0])), count>([&](int i) { return as_f32(a.part[i]); });
}
template <class U, int count>
FPES_INLINE auto int_to_f32(const Wide<U, count>& a) {
    return each_part<decltype(int_to_f32(a.part[0])), count>([&](int i) { return int_to_f32(a.part[i]); });
}
template <class U, int count>
FPES_INLINE Wide<U, count> bit_and(const Wide<U, count>& a, const Wide<U, count>& b) {
    return each_part<U, count>([&](int i) { return bit_and(a.part[i], b.part[i]); });
}
template <class U, int count>
FPES_INLINE Wide<U, count> bit_or(const Wide<U, count>& a, const Wide<U, count>& b) {
    return each_part<U, count>([&](int i) { return bit_or(a.part[i], b.part[i]); });
}
template <int n, class U, int count>
FPES_INLINE Wide<U, count> shift_left(const Wide<U, count>& a) {
    return each_part<U, count>([&](int i) { return shift_left<n>(a.part[i]); });
}
template <int n, class U, int count>
FPES_INLINE Wide<U, count> shift_right(const Wide<U, count>& a) {
    return each_part<U, count>([&](int i) { return shift_right<n>(a.part[i]); });
}

FPES_NAMESPACE_END
