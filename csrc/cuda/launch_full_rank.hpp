// The definition of launch_full_rank, for the files that instantiate it.
#pragma once

#include "launch.hpp"
#include "modes.hpp"

FPES_NAMESPACE_BEGIN

template <NoiseKind kind>
void launch_full_rank(const Context& context, Flush flush, TileName tile, std::int64_t pairs, const FullRankJob& job) {
    with_tile(tile, [&](auto shape) {
        using T = decltype(shape);
        using Shape = FullRankTile<T>;
        const std::int64_t columns = job.fused ? 1 : parts(job.layers.layer[0].fan_out, T::columns);
        const Grid grid{pairs * parts(job.batch, Shape::samples), columns};
        in_product_mode(flush, [&](auto mode) {
            launch(full_rank_kernel<T, decltype(mode), kind>, grid, T::threads, Shape::shared_bytes(job.fused), context,
                   job);
        });
    });
}

FPES_NAMESPACE_END
