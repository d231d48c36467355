// The definition of launch_shared_weights.
#include "launch.hpp"
#include "modes.hpp"

FPES_NAMESPACE_BEGIN

void launch_shared_weights(const Context& context, Flush flush, TileName tile, const SharedWeightsJob& job) {
    with_tile(tile, [&](auto shape) {
        using T = decltype(shape);
        const std::int64_t columns = job.fused ? 1 : parts(job.layers.layer[0].fan_out, T::columns);
        const Grid grid{parts(job.rows.count, T::rows), columns};
        in_product_mode(flush, [&](auto mode) {
            launch(shared_weights_kernel<T, decltype(mode)>, grid, T::threads,
                   SharedWeightsTile<T>::shared_bytes(job.fused), context, job);
        });
    });
}

FPES_NAMESPACE_END
