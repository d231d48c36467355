// The definition of launch_full_rank, for the files that instantiate it.
#pragma once

#include "launch.hpp"
#include "modes.hpp"

FPES_NAMESPACE_BEGIN

template <NoiseKind kind>
void launch_full_rank(const Context& context, Flush flush, const Choice& choice, std::int64_t pairs,
                      const FullRankJob& job) {
    with_choice(choice, [&](auto shape, auto is_fused) {
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

FPES_NAMESPACE_END
