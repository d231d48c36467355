// The list of families of perturbations.
#pragma once

#include <optional>
#include <stdexcept>
#include <variant>

#include "full_rank.hpp"
#include "low_rank.hpp"
#include "node.hpp"

namespace fpes {

using Perturbation = std::variant<FullRank, LowRank, NodePerturbation>;

template <class... Families>
std::variant<Families...> family_named(const std::string& name, const Parameters& parameters,
                                       const std::variant<Families...>* /*which*/) {
    std::optional<std::variant<Families...>> found;
    ((name == Families::name ? void(found.emplace(Families(parameters))) : void()), ...);
    if (!found) throw std::invalid_argument("there is no family of perturbations '" + name + "'");
    return *found;
}
inline Perturbation perturbation_named(const std::string& name, const Parameters& parameters) {
    return family_named(name, parameters, static_cast<const Perturbation*>(nullptr));
}

}  // namespace fpes
