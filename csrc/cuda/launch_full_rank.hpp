// The definition of launch_full_rank, for the files that instantiate it.
#pragma once

#include "launch.hpp"
#include "modes.hpp"

FPES_NAMESPACE_BEGIN

template <NoiseKind kind>
void launch_full_rank(const Context& context, Flush flush, const Choice& choice, std::int64_t pairs,
                      const FullRankJob& job) {
    with_choice<OwnWeightsLayerTile>(choice, [&](auto shape, auto is_fused) {
        using T = decltype(shape);
        constexpr bool fused = decltype(is_fused)::value;
        using Shape = FullRankTile<T>;
        const std::int64_t columns = fused ? 1 : parts(job.layers.layer[0].fan_out, T::columns);
        const Grid grid{pairs * parts(job.batch, Shape::samples), columns};
        in_product_mode(flush, [&](auto mode) {
            launch(full_rank_kernel<T, decltype(mode), kind, fused>, grid, T::threads, Shape::shared_bytes(fused),
                   context, job);
        });
    });
}

template <NoiseKind kind>
void launch_full_rank_last(const Context& context, Flush flush, std::int64_t pairs, const FullRankJob& job) {
    constexpr int rows = OwnWeightsLayerTile::rows;
    in_product_mode(flush, [&](auto mode) {
        using Block = LastLayerBlock<rows, decltype(mode), kind>;
        launch(full_rank_last_kernel<rows, decltype(mode), kind>, Grid{pairs * parts(job.batch, rows / 2)},
               Block::threads, Block::shared_bytes, context, job);
    });
}

FPES_NAMESPACE_END
