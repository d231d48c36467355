// The instruction sets that this machine can run, and the kernels of each.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace fpes {

// Slowest first; the last is the best that this machine has.
std::vector<std::string> supported_isas();

// Throws std::invalid_argument if the machine or this build doesn't have it.
const Kernels& kernels_for(const std::string& isa);

}  // namespace fpes
