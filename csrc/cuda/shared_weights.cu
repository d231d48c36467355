// The definition of launch_shared_weights.
#include "launch.hpp"
#include "modes.hpp"

FPES_NAMESPACE_BEGIN

void launch_shared_weights(const Context& context, Flush flush, const Choice& choice, const SharedWeightsJob& job) {
    with_choice<SharedWeightsLayerTile>(choice, [&](auto shape, auto is_fused) {
        using T = decltype(shape);
        constexpr bool fused = decltype(is_fused)::value;
        const std::int64_t columns = fused ? 1 : parts(job.layers.layer[0].fan_out, T::columns);
        const Grid grid{parts(job.rows.count, T::rows), columns};
        in_product_mode(flush, [&](auto mode) {
            launch(shared_weights_kernel<T, decltype(mode), fused>, grid, T::threads,
                   SharedWeightsTile<T>::shared_bytes(fused), context, job);
        });
    });
}

FPES_NAMESPACE_END
