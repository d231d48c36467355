// What each file tells tests about its tiles (tile_extents in backend.hpp).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "../common/target.hpp"

FPES_NAMESPACE_BEGIN

using Extents = std::vector<std::pair<std::string, int>>;
Extents gemm_extents();

FPES_NAMESPACE_END
