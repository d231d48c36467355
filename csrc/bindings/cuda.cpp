// The CUDA backend as a Python module: device addresses, shapes and a stream in, exceptions out.
//
// One file, compiled once for each build of the kernels: FPES_TARGET names the namespace of that build, FPES_MODULE the
// module, FPES_FTZ says whether it flushes. Against the host shim (tests/shim) "device memory" is host memory.
//
// Every function that computes takes an Execution first, and has a partner with the same arguments and "_workspace" on
// its name, which returns how many bytes of scratch memory that call needs. The caller allocates them, on the same
// device and stream, and hands them over in the Execution. Functions return before the work is done.
#include "../common/fp_mode.hpp"
#include "../cuda/backend.hpp"
#include "types.hpp"
#if defined(FPES_SHIM)
#include "shim/controls.hpp"
#endif

namespace py = pybind11;
using namespace fpes;

namespace {

// Where to compute: chosen anew for every call.
struct Execution {
    int device;
    Address stream;
    Address workspace;
    std::size_t workspace_bytes;
};

Network network_at(Flush flush, const Program& program, Address theta) {
    return {flush, program, pointer<const float>(theta)};
}

// Runs body(context) without the GIL. What lies between the kernels computes too (scales): in IEEE mode, whatever the
// caller's is. Returns the bytes of workspace used.
template <class Body>
std::size_t run(const Execution& execution, Arena arena, Body body) {
    const py::gil_scoped_release released;
    const FpMode ieee(false);
    const CurrentDevice current(execution.device);
    const Device device = device_properties(execution.device);
    Context context{pointer<CUstream_st>(execution.stream), device, arena};
    body(context);
    return context.arena.used();
}

// Defines `name` and `name`_workspace from one body(context, arguments...).
template <class Body, class Result, class... Arguments>
void define(py::module_& m, const std::string& name, Body body, Result (Body::*)(Context&, Arguments...) const) {
    m.def(name.c_str(), [body](const Execution& execution, Arguments... arguments) {
        const Arena workspace(pointer<void>(execution.workspace), execution.workspace_bytes);
        run(execution, workspace, [&](Context& context) { body(context, arguments...); });
    });
    m.def((name + "_workspace").c_str(), [body](const Execution& execution, Arguments... arguments) {
        return run(execution, Arena::measure(), [&](Context& context) { body(context, arguments...); });
    });
}
template <class Body>
void define(py::module_& m, const std::string& name, Body body) {
    define(m, name, body, &Body::operator());
}

void define_types(py::module_& m) {
    define_population_types(m);
    py::class_<Execution>(m, "Execution", py::module_local())
        .def(py::init([](int device, Address stream, Address workspace, std::size_t workspace_bytes) {
                 return Execution{device, stream, workspace, workspace_bytes};
             }),
             py::arg("device"), py::arg("stream"), py::arg("workspace") = 0, py::arg("workspace_bytes") = 0);
}

// CudaError(code, name, message) in Python: a RuntimeError.
void define_errors(py::module_& m) {
    static PyObject* type = nullptr;
    type = PyErr_NewException((py::cast<std::string>(m.attr("__name__")) + ".CudaError").c_str(), PyExc_RuntimeError,
                              nullptr);
    m.attr("CudaError") = py::handle(type);
    py::register_local_exception_translator([](std::exception_ptr failure) {
        try {
            if (failure) std::rethrow_exception(failure);
        } catch (const CudaError& error) {
            PyErr_SetObject(type, py::make_tuple(error.code(), error.name(), error.what()).ptr());
        }
    });
}

void define_devices(py::module_& m) {
    m.def("ftz", [] { return FPES_FTZ != 0; }, "Whether this build flushes.");
    m.def("device_count", &device_count);
    m.def("device_properties", [](int index) {
        const Device device = device_properties(index);
        py::dict properties;
        properties["name"] = device.name;
        properties["compute_capability"] = device.compute_capability;
        properties["multiprocessors"] = device.multiprocessors;
        properties["shared_per_block"] = device.shared_per_block;
        return properties;
    });
    // As the build set it, "90;80-virtual" for instance.
    m.def("architectures", [] { return std::string(FPES_CUDA_ARCHITECTURES); });
    m.def("tile_extents", [] {
        py::dict extents;
        for (const auto& [name, extent] : tile_extents()) extents[name.c_str()] = extent;
        return extents;
    });
}

void define_primitives(py::module_& m) {
    define(m, "gemm",
           [](Context& context, Flush flush, Address a, Address b, Address c, std::int64_t rows, std::int64_t columns,
              std::int64_t depth) {
               gemm(context, flush, pointer<const float>(a), pointer<const float>(b), pointer<float>(c), rows, columns,
                    depth);
           });
    define(m, "bias_add",
           [](Context& context, Flush flush, Address v, Address bias, Address out, std::int64_t rows,
              std::int64_t columns) {
               bias_add(context, flush, pointer<const float>(v), pointer<const float>(bias), pointer<float>(out), rows,
                        columns);
           });
    define(m, "multiply", [](Context& context, Flush flush, Address v, double factor, Address out, std::int64_t count) {
        // Rounded to float in IEEE mode, not in the caller's: volatile keeps it behind the change of mode.
        const volatile double exact = factor;
        multiply(context, flush, pointer<const float>(v), static_cast<float>(exact), pointer<float>(out), count);
    });
    define(m, "losses",
           [](Context& context, Flush flush, Address outputs, std::int64_t rows, std::int64_t count,
              const LossTargets& targets, Address out) {
               losses(context, flush, pointer<const float>(outputs), rows, count, targets_at(targets, count),
                      pointer<float>(out));
           });
    define(m, "noise",
           [](Context& context, NoiseKind kind, std::uint64_t seed, int layer, NoiseRole role, std::uint32_t pair,
              std::uint32_t generation, std::uint64_t first, std::int64_t count, Address out) {
               const NoiseStream stream{key_of(seed), noise_tensor(layer, role), pair, generation, kind};
               draw_noise(context, stream, first, count, pointer<float>(out));
           });
    define(m, "elementary", [](Context& context, const std::string& name, Address x, Address out, std::int64_t count) {
        if (name != "exp" && name != "log") throw std::invalid_argument("name is '" + name + "', expected exp or log");
        elementary(context, name == "log", pointer<const float>(x), count, pointer<float>(out));
    });
    m.def("multiply_add_chains", [](const Execution& execution, std::int64_t steps, Address out) {
        std::int64_t count = 0;
        run(execution, Arena(nullptr, 0),
            [&](Context& context) { count = multiply_add_chains(context, steps, pointer<float>(out)); });
        return count;
    });
}

void define_populations(py::module_& m) {
    define(m, "forward",
           [](Context& context, Flush flush, const Program& program, Address theta, Address x, std::int64_t batch,
              Address outputs) {
               forward(context, network_at(flush, program, theta), pointer<const float>(x), batch,
                       pointer<float>(outputs));
           });
    define(m, "population_evaluate",
           [](Context& context, Flush flush, const Program& program, Address theta, const Population& population,
              std::int64_t first_pair, std::int64_t end_pair, Address x, const LossTargets& targets,
              const BatchShape& batch, Address sums, Address fitness, Address losses) {
               evaluate(context, network_at(flush, program, theta), population, {first_pair, end_pair},
                        batches_at(x, targets_at(targets, outputs_of(program)), batch), pointer<float>(sums),
                        pointer<float>(fitness), pointer<float>(losses));
           });
    define(m, "population_forward",
           [](Context& context, Flush flush, const Program& program, Address theta, const Population& population,
              std::int64_t first_pair, std::int64_t end_pair, Address x, const BatchShape& batch, Address sums,
              Address out) {
               outputs(context, network_at(flush, program, theta), population, {first_pair, end_pair},
                       batches_at(x, {}, batch), pointer<float>(sums), pointer<float>(out));
           });
    m.def("population_plan",
          [](const Execution& execution, Flush flush, const Program& program, const Population& population,
             std::int64_t first_pair, std::int64_t end_pair, const BatchShape& batch) {
              return plan(device_properties(execution.device), network_at(flush, program, 0), population,
                          {first_pair, end_pair}, batches_at(0, {}, batch));
          });
    define(m, "population_member",
           [](Context& context, Flush flush, const Program& program, Address theta, const Population& population,
              std::int64_t index, Address out) {
               member(context, network_at(flush, program, theta), population, index, pointer<float>(out));
           });
}

void define_gradients(py::module_& m) {
    define(m, "population_gradient",
           [](Context& context, const Program& program, const Population& population, Address weights, bool integers,
              std::int64_t members, std::int64_t first_pair, std::int64_t end_pair, Address sums, Address out) {
               const GradientPart part{{first_pair, end_pair}, pointer<float>(out), pointer<std::int64_t>(sums)};
               if (integers) {
                   gradient(context, program.tensors, population, pointer<const std::int32_t>(weights), members, part);
               } else {
                   gradient(context, program.tensors, population, pointer<const float>(weights), members, part);
               }
           });
    define(m, "scale_sums",
           [](Context& context, const Program& program, const Population& population, std::int64_t pairs, Address sums,
              Address out) {
               scale_sums(context, program.tensors, population, pairs, pointer<const std::int64_t>(sums),
                          pointer<float>(out));
           });
    define(m, "population_sample_gradient",
           [](Context& context, Flush flush, const Program& program, Address theta, const Population& population,
              std::int64_t pairs, std::int64_t first_pair, std::int64_t end_pair, Address x, const BatchShape& batch,
              Address weights, bool per_sample, Address sums, Address out) {
               const Batches batches = batches_at(x, {}, batch);
               sample_gradient(context, network_at(flush, program, theta), population, {first_pair, end_pair}, pairs,
                               batches, sample_weights(weights, per_sample, first_pair, batches),
                               pointer<const float>(sums), pointer<float>(out));
           });
}

using StateAddresses = std::array<Address, 4>;

UnitJob unit_job(Flush flush, const Program& program, Address theta, const UnitPopulation& population,
                 std::int64_t pairs, const Batches& batch, const StateAddresses& state) {
    const Network network = network_at(flush, program, theta);
    return {network,
            population,
            UnitLayout(network.steps(), population.draws),
            pairs,
            batch,
            {pointer<float>(state[0]), pointer<float>(state[1]), pointer<double>(state[2]), pointer<double>(state[3])}};
}

void define_units(py::module_& m) {
    define(m, "unit_prepare",
           [](Context& context, Flush flush, const Program& program, Address theta, const UnitPopulation& population,
              std::int64_t pairs, Address x, const BatchShape& batch, const StateAddresses& state,
              std::int64_t first_batch, std::int64_t end_batch) {
               unit_prepare(context,
                            unit_job(flush, program, theta, population, pairs, batches_at(x, {}, batch), state),
                            {first_batch, end_batch});
           });
    define(
        m, "unit_evaluate",
        [](Context& context, Flush flush, const Program& program, Address theta, const UnitPopulation& population,
           std::int64_t pairs, Address x, const BatchShape& batch, const StateAddresses& state, std::int64_t first_pair,
           std::int64_t end_pair, const LossTargets& targets, const std::array<Address, 5>& results) {
            unit_evaluate(context,
                          unit_job(flush, program, theta, population, pairs,
                                   batches_at(x, targets_at(targets, outputs_of(program)), batch), state),
                          {first_pair, end_pair},
                          {pointer<const float>(results[0]), pointer<float>(results[1]), pointer<float>(results[2]),
                           pointer<float>(results[3]), pointer<float>(results[4])});
        });
    define(m, "unit_gradient",
           [](Context& context, Flush flush, const Program& program, Address theta, const UnitPopulation& population,
              std::int64_t pairs, Address x, const BatchShape& batch, const StateAddresses& state, Address weights,
              bool integers, Address out) {
               const UnitJob job = unit_job(flush, program, theta, population, pairs, batches_at(x, {}, batch), state);
               if (integers) {
                   unit_gradient(context, job, pointer<const std::int32_t>(weights), pointer<float>(out));
               } else {
                   unit_gradient(context, job, pointer<const float>(weights), pointer<float>(out));
               }
           });
    define(m, "unit_member",
           [](Context& context, Flush flush, const Program& program, Address theta, const UnitPopulation& population,
              std::int64_t pairs, Address x, const BatchShape& batch, const StateAddresses& state, std::int64_t index,
              Address out) {
               unit_member(context, unit_job(flush, program, theta, population, pairs, batches_at(x, {}, batch), state),
                           index, pointer<float>(out));
           });
}

}  // namespace

PYBIND11_MODULE(FPES_MODULE, m) {
    m.doc() = "CUDA backend of fpes. Private: use the functions of the package.";
    define_errors(m);
    define_types(m);
    define_devices(m);
    define_primitives(m);
    define_populations(m);
    define_gradients(m);
    define_units(m);
#if defined(FPES_SHIM)
    shim::define_controls(m);
#endif
}
