// A family of perturbations is a type that says what both backends must agree on: what its noise is keyed by, what it
// is multiplied by, and how its estimate of the gradient is scaled.
//
//     struct MyFamily {
//         static constexpr const char* name = "my_family";       // by which Python asks for it
//         using Way = ByOuterProducts;                           // how it meets the network
//         explicit MyFamily(const Parameters& parameters);       // Python's numbers, by name
//         Correction correction() const;                         // of a layer's sums, or none
//         bool biases() const;                                   // whether they have noise of their own
//         double scale(const Noise& noise, const Tensor& tensor) const;
//         double gradient_scale(const Noise& noise, const Tensor& tensor, double evaluations) const;
//         double largest_term(NoiseKind kind) const;
//     };
//
//   - scale() is what the draws of a tensor's correction are multiplied by; noise on pre-activations is in units of the
//     network's own scale. It is rounded once, in the end. By element it is that of the noise, as for biases.
//   - gradient_scale() is what a tensor's sum of weighted noise is multiplied by, to be the gradient: `evaluations` are
//     the members that perturb it, times the samples of which each has a weight of its own.
//   - largest_term() bounds what a pair adds to an element of such a sum for a weight of 1, where noise is integers.
//
// How each way meets the network is in cpu/perturbations and cuda/perturbations. A family with arithmetic of its own is
// a way of its own, with a header there.
#pragma once

#include <map>
#include <string>

#include "../noise.hpp"
#include "../program.hpp"

namespace fpes {

struct ByElement {};        // every weight has noise of its own; no correction
struct ByOuterProducts {};  // a correction of inputs
struct BySample {};         // any other correction

using Parameters = std::map<std::string, double>;

// All noise of a generation, and how much of it there is.
struct Noise {
    NoiseKind kind;
    PhiloxKey key;
    std::uint32_t generation;
    double sigma;  // standard deviation of a perturbation

    // owner: as for noise_tensor().
    NoiseStream stream(int owner, NoiseRole role, std::int64_t pair) const {
        return {key, noise_tensor(owner, role), static_cast<std::uint32_t>(pair), generation, kind};
    }
    // Of parameters with noise of their own: what a draw is multiplied by, and a sum of weighted draws.
    double scale() const { return sigma * noise_unit(kind); }
    double gradient_scale(double evaluations) const { return noise_unit(kind) / (evaluations * sigma); }
};

// Where members share weights: how each differs in a layer's sums. A fused multiply-add for each term, in order,
//
//     sum_j = fma(right[row, j], factor, sum_j)
//
// where `right` is a tensor of noise. Of inputs: row t is term t, and its factor is (h . left[t]) * (+-scale), for the
// tensor of noise `left`: a change of the weights by left^T right, never formed. Otherwise there is one term, its row
// is the sample, and its factor +-scale.
struct Correction {
    int terms;  // 0: none
    bool of_inputs;
    NoiseRole left;   // [terms, fan_in], of inputs
    NoiseRole right;  // [terms, fan_out], or [batch, fan_out]

    // Inner products of a row of inputs that it takes.
    int products() const { return of_inputs ? terms : 0; }
};
constexpr Correction no_correction{0, false, NoiseRole::weight, NoiseRole::weight};

}  // namespace fpes
