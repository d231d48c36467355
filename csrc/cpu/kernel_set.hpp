// All kernels of one instruction set, gathered into the table that the engine calls through.
#pragma once

#include "kernels.hpp"
#include "kernels/changes.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/loss.hpp"
#include "kernels/noise.hpp"
#include "kernels/nonzeros.hpp"
#include "kernels/panels.hpp"
#include "kernels/peak.hpp"
#include "kernels/product.hpp"
#include "kernels/skipping.hpp"
#include "kernels/sums.hpp"
#include "kernels/unit.hpp"

FPES_NAMESPACE_BEGIN

template <class F>
constexpr ModeKernels mode_kernels() {
    return {
        /*product=*/product<F>,
        /*product_transposed=*/product_transposed<F>,
        /*product_part=*/product_part<F>,
        /*product_skipping=*/product_skipping<F>,
        /*product_nonzeros=*/product_nonzeros<F>,
        /*perturb=*/perturb<F>,
        /*accumulate_noise=*/accumulate_noise<F>,
        /*accumulate_rows=*/accumulate_rows<F>,
        /*accumulate_units=*/accumulate_units<F>,
        /*add_changes=*/add_changes<F>,
        /*boundary=*/boundary<F>,
        /*scale=*/scale<F>,
        /*scale_rows=*/scale_rows<F>,
        /*subtract=*/subtract<F>,
        /*add_and_scale=*/add_and_scale<F>,
        /*losses=*/losses<F>,
        /*unit_perturb=*/unit_perturb<F>,
        /*unit_boundary=*/unit_boundary<F>,
        /*unit_subtract=*/unit_subtract<F>,
        /*unit_output_sums=*/unit_output_sums<F>,
        /*unit_losses=*/unit_losses<F>,
        /*unit_activations=*/unit_activations<F>,
        /*unit_product=*/unit_product<F>,
        /*multiply_add_chains=*/multiply_add_chains<F>,
        /*bias_add=*/bias_add<F>,
        /*multiply=*/multiply<F>,
        /*exp=*/map<F, ExpOf>,
        /*exp_of_nonpositive=*/map<F, ExpOfNonpositive>,
        /*log=*/map<F, LogOf>,
        /*normal_pair=*/normal_pairs<F>,
    };
}

constexpr Kernels kernel_set(const char* name, bool hardware_flush) {
    return {
        name,
        lanes_of<F32Ieee>,
        panel_width<F32Ieee>,
        peak_chains,
        max_tile_rows,
        part_depth,
        nonzero_run<F32Ieee>,
        hardware_flush,
        mode_kernels<F32Ieee>(),
        mode_kernels<F32Ftz>(),
        pack<F32Ieee>,
        unpack<F32Ieee>,
        transpose<F32Ieee>,
        to_integer_terms<F32Ieee>,
        integer_product_transposed<F32Ieee>,
        finish_sums<F32Ieee>,
        find_nonzeros<F32Ieee>,
        noise<F32Ieee>,
        noise_panels<F32Ieee>,
        unit_positions<F32Ieee>,
        gather_units<F32Ieee>,
        unit_gram<F32Ieee>,
        unit_project<F32Ieee>,
        unit_fitness<F32Ieee>,
        unit_reached<F32Ieee>,
    };
}

FPES_NAMESPACE_END
