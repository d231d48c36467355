// The population kernels, launched: what chooses the instantiation. Each is compiled in a file of its own.
#pragma once

#include "choice.hpp"
#include "full_rank.hpp"
#include "full_rank_last.hpp"
#include "shared_weights.hpp"

FPES_NAMESPACE_BEGIN

// One block for each pair and tile of samples, in y for each `columns` of a tile that the layer has.
template <NoiseKind kind>
void launch_full_rank(const Context& context, Flush flush, const Choice& choice, std::int64_t pairs,
                      const FullRankJob& job);
// The last layer, narrow, after others that went one at a time.
template <NoiseKind kind>
void launch_full_rank_last(const Context& context, Flush flush, std::int64_t pairs, const FullRankJob& job);

// One block for each tile of rows.
void launch_shared_weights(const Context& context, Flush flush, const Choice& choice, const SharedWeightsJob& job);

FPES_NAMESPACE_END
