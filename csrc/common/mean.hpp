// Sums over a batch have one order for any tile size: samples within blocks, then the blocks, all in double.
#pragma once

#include <cstdint>

#include "target.hpp"

namespace fpes {

constexpr std::int64_t loss_block = 64;  // samples

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// term(begin) + ... + term(end - 1), in this order.
template <class Term>
FPES_IN_KERNEL double sum_in_order(std::int64_t begin, std::int64_t end, Term term) {
    double sum = 0.0;
    for (std::int64_t i = begin; i < end; ++i) sum += term(i);
    return sum;
}

// The sum of a block's terms.
template <class Term>
FPES_IN_KERNEL double sum_of_block(std::int64_t block, std::int64_t count, Term term) {
    const std::int64_t first = block * loss_block, end = first + loss_block;
    return sum_in_order(first, end < count ? end : count, term);
}

// The mean of `count` terms, from the sums of their blocks.
template <class SumOfBlock>
FPES_IN_KERNEL double mean_of_blocks(std::int64_t count, SumOfBlock sum_of) {
    return sum_in_order(0, (count + loss_block - 1) / loss_block, sum_of) / static_cast<double>(count);
}

FPES_NAMESPACE_END
