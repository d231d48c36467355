#include "program.hpp"

namespace fpes {

Program make_program(const std::vector<std::int64_t>& sizes, const std::vector<int>& tensors, float scaling) {
    Program program;
    std::size_t offset = 0;
    const int depth = static_cast<int>(tensors.size());
    for (int l = 0; l < depth; ++l) {
        if (tensors[l] == static_cast<int>(program.tensors.size())) {
            const std::int64_t fan_in = sizes[l], fan_out = sizes[l + 1];
            const std::size_t bias_offset = offset + static_cast<std::size_t>(fan_in) * fan_out;
            program.tensors.push_back({tensors[l], fan_in, fan_out, offset, bias_offset});
            offset = bias_offset + fan_out;
        }
        Step step{};
        step.position = l;
        step.tensor = program.tensors[tensors[l]];
        step.reads = l == 0 ? network_input : l - 1;
        step.bias_factor = l == 0 ? 1.0f : 1.0f / scaling;
        step.enter = l == 0 ? 1.0f / scaling : 1.0f;
        step.leave = l == depth - 1 ? scaling : 1.0f;
        program.steps.push_back(step);
    }
    return program;
}

}  // namespace fpes
