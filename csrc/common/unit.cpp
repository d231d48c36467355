#include "unit.hpp"

#include <cmath>

namespace fpes {
UnitLayout::UnitLayout(const std::vector<Step>& layers, const std::vector<int>& draws)
    : draws_(draws), first_draw_{0}, first_pair_{0} {
    for (const Step& layer : layers) {
        units_.push_back(layer.tensor.fan_out);
        first_draw_.push_back(first_draw_.back() + draws[layer.position]);
        first_pair_.push_back(first_pair_.back() + draws[layer.position] * layer.tensor.fan_out);
    }
}

UnitPlace UnitLayout::place(std::int64_t pair) const {
    std::int64_t rest = pair % pairs();
    int layer = 0;
    while (rest >= first_pair_[layer + 1]) ++layer;
    rest -= first_pair_[layer];
    return {layer, static_cast<int>(rest / units_[layer]), rest % units_[layer]};
}

// Row by row (Cholesky-Banachiewicz): each element's terms are subtracted in order, each rounded after the product and
// after the difference.
void unit_factorise(double* gram, int samples, double ridge) {
    for (int i = 0; i < samples; ++i) {
        double* row = gram + static_cast<std::int64_t>(i) * samples;
        for (int j = 0; j <= i; ++j) {
            const double* other = gram + static_cast<std::int64_t>(j) * samples;
            double rest = i == j ? row[j] + ridge : row[j];
            for (int k = 0; k < j; ++k) rest -= row[k] * other[k];
            row[j] = i == j ? std::sqrt(rest) : rest / other[j];
        }
    }
}

void unit_solve(const double* factor, int samples, const float* signs, double* solution) {
    for (int i = samples - 1; i >= 0; --i) {
        double rest = signs[i];
        for (int k = i + 1; k < samples; ++k) rest -= factor[static_cast<std::int64_t>(k) * samples + i] * solution[k];
        solution[i] = rest / factor[static_cast<std::int64_t>(i) * samples + i];
    }
}

void unit_multiply(const double* gram, int samples, const double* solution, double* out) {
    for (int i = 0; i < samples; ++i) {
        const double* row = gram + static_cast<std::int64_t>(i) * samples;
        double sum = 0.0;
        for (int k = 0; k < samples; ++k) {
            sum += (k <= i ? row[k] : gram[static_cast<std::int64_t>(k) * samples + i]) * solution[k];
        }
        out[i] = sum;
    }
}

void unit_signs(const float* first, int samples, int draw, float* signs) {
    for (int i = 0; i < samples; ++i) signs[i] = __builtin_parity(i & draw) ? -first[i] : first[i];
}

}  // namespace fpes
