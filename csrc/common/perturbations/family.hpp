// A family of perturbations is a type with the definitions that both backends share: the keys of its noise, the scale
// of its noise, and the scale of its gradient.
//
//     struct MyFamily {
//         static constexpr const char* name = "my_family";       // its name in Python
//         using Way = ByOuterProducts;                           // how it enters the network
//         explicit MyFamily(const Parameters& parameters);       // Python's numbers, by name
//         Correction correction() const;                         // correction of a layer's sums, or none
//         bool biases() const;                                   // whether biases have their own noise
//         double scale(const Noise& noise, const Tensor& tensor) const;
//         double gradient_scale(const Noise& noise, const Tensor& tensor, double evaluations) const;
//         double largest_term(NoiseKind kind) const;
//     };
//
//   - scale() is the factor of the draws of a tensor's correction. Noise on pre-activations is in units of the
//     network's own scale. The factor is rounded once, at the end. For ByElement it is noise.scale(), as for biases.
//   - gradient_scale() is the factor that turns a tensor's sum of weighted noise into the gradient. `evaluations` is
//     the number of members that perturb the tensor, times the number of samples with their own weights.
//   - largest_term() is the largest magnitude that a pair adds to an element of such a sum, for a weight of 1 and
//     integer noise.
//
// cpu/perturbations and cuda/perturbations implement each way. A family with different arithmetic defines its own way,
// with a header in both folders.
#pragma once

#include <map>
#include <string>

#include "../noise.hpp"
#include "../program.hpp"

namespace fpes {

struct ByElement {};        // every weight has its own noise; no correction
struct ByOuterProducts {};  // a correction that multiplies the inputs
struct BySample {};         // any other correction

using Parameters = std::map<std::string, double>;

// The noise of a generation, and its magnitude.
struct Noise {
    NoiseKind kind;
    PhiloxKey key;
    std::uint32_t generation;
    double sigma;  // standard deviation of a perturbation

    // owner: as for noise_tensor().
    NoiseStream stream(int owner, NoiseRole role, std::int64_t pair) const {
        return {key, noise_tensor(owner, role), static_cast<std::uint32_t>(pair), generation, kind};
    }
    // For parameters with their own noise: the factor of a draw, and the factor of a sum of weighted draws.
    double scale() const { return sigma * noise_unit(kind); }
    double gradient_scale(double evaluations) const { return noise_unit(kind) / (evaluations * sigma); }
};

// For members that share weights: the difference of a member in a layer's sums. One fused multiply-add for each term,
// in order,
//
//     sum_j = fma(right[row, j], factor, sum_j)
//
// where `right` is a tensor of noise. A correction of inputs has a row for each term t, with the factor (h . left[t]) *
// (+-scale), where `left` is another tensor of noise. This changes the weights by left^T right, which is never written
// to memory. Any other correction has one term; its row is the sample, and its factor is +-scale.
struct Correction {
    int terms;  // 0: none
    bool of_inputs;
    NoiseRole left;   // [terms, fan_in], for a correction of inputs
    NoiseRole right;  // [terms, fan_out], or [batch, fan_out]

    // Number of inner products with a row of inputs.
    int products() const { return of_inputs ? terms : 0; }
};
constexpr Correction no_correction{0, false, NoiseRole::weight, NoiseRole::weight};

}  // namespace fpes
