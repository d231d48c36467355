// What every module has: addresses for arrays, and the types that say which population on which batch.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <utility>
#include <vector>

#include "../common/estimator.hpp"
#include "../common/flush.hpp"
#include "../common/population.hpp"
#include "../common/unit.hpp"

namespace fpes {

using Address = std::uintptr_t;
using LossTargets = std::pair<Loss, Address>;
using BatchShape = std::array<std::int64_t, 3>;  // samples of a batch, batches, pairs that share one

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

inline std::int64_t outputs_of(const Program& program) { return program.steps.back().tensor.fan_out; }

inline Targets targets_at(const LossTargets& targets, std::int64_t outputs) {
    return targets_at(targets.first, pointer<const void>(targets.second), outputs);
}

inline Batches batches_at(Address x, const Targets& targets, const BatchShape& shape) {
    return {pointer<const float>(x), targets, shape[0], shape[1], shape[2]};
}

// Those of a range's pairs, from the whole population's values[members] or [members, samples].
inline SampleWeights sample_weights(Address values, bool per_sample, std::int64_t first_pair, const Batches& batch) {
    const std::int64_t samples = per_sample ? batch.size : 1;
    return {pointer<const float>(values) + 2 * first_pair * samples, samples};
}

inline PhiloxKey key_of(std::uint64_t seed) {
    return {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
}

inline void define_population_types(pybind11::module_& m) {
    namespace py = pybind11;
    // Local to the module: each has Python types of its own for the same C++ ones.
    const py::module_local local;
    py::enum_<Flush>(m, "Flush", local)
        .value("never", Flush::never)
        .value("boundary", Flush::boundary)
        .value("always", Flush::always);
    py::enum_<NoiseKind>(m, "NoiseKind", local)
        .value("binomial", NoiseKind::binomial)
        .value("rademacher", NoiseKind::rademacher)
        .value("gaussian", NoiseKind::gaussian);
    py::enum_<NoiseRole>(m, "NoiseRole", local)
        .value("weight", NoiseRole::weight)
        .value("bias", NoiseRole::bias)
        .value("factor_a", NoiseRole::factor_a)
        .value("factor_b", NoiseRole::factor_b)
        .value("node", NoiseRole::node)
        .value("positions", NoiseRole::positions)
        .value("direction", NoiseRole::direction)
        .value("init", NoiseRole::init);
    py::enum_<Loss> losses(m, "Loss", local);
#define FPES_LOSS(name, Type) losses.value(#name, Loss::name);
    FPES_LOSSES(FPES_LOSS)
#undef FPES_LOSS
    py::class_<Program>(m, "Program", local)
        .def(py::init(&make_program), py::kw_only(), py::arg("sizes"), py::arg("tensors"), py::arg("scaling"));
    py::class_<Population>(m, "Population", local)
        .def(py::init([](const std::string& family, const Parameters& parameters, std::vector<int> units,
                         std::vector<int> pairs, NoiseKind noise, std::uint64_t seed, std::uint32_t generation,
                         double sigma) {
                 return Population{perturbation_named(family, parameters),
                                   {std::move(units), std::move(pairs)},
                                   {noise, key_of(seed), generation, sigma}};
             }),
             py::kw_only(), py::arg("family"), py::arg("parameters"), py::arg("units"), py::arg("pairs"),
             py::arg("noise"), py::arg("seed"), py::arg("generation"), py::arg("sigma"));
    py::class_<UnitPopulation>(m, "UnitPopulation", local)
        .def(
            py::init([](bool span, std::uint64_t seed, std::uint32_t generation, double sigma, std::vector<int> draws) {
                return UnitPopulation{span, key_of(seed), generation, sigma, std::move(draws)};
            }),
            py::kw_only(), py::arg("span"), py::arg("seed"), py::arg("generation"), py::arg("sigma"), py::arg("draws"));
}

}  // namespace fpes
