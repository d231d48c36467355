// The CPU backend as a Python module: raw pointers and shapes in, exceptions out.
//
// The modules of the package that call this have checked shapes, types, ranges and contiguity, and they keep the arrays
// alive; nothing is checked twice. The GIL is released for the length of every call that computes.
#include <cxxabi.h>
#include <unistd.h>

#include <exception>

#include "../cpu/gradient.hpp"
#include "../cpu/isa.hpp"
#include "../cpu/optimiser.hpp"
#include "../cpu/population.hpp"
#include "../cpu/primitives.hpp"
#include "../cpu/unit.hpp"
#include "../cpu/warp.hpp"
#include "types.hpp"

namespace py = pybind11;
using namespace fpes;

namespace {

// How to compute: chosen anew for every call.
struct Execution {
    std::string isa;
    int threads;
};

// What a Python call describes, brought together with the engine that runs it.
class NetworkCall {
   public:
    NetworkCall(const Execution& execution, Flush flush, const Program& program, Address theta)
        : threads(execution.threads),
          engine(kernels_for(execution.isa), flush),
          network(engine, threads, program, pointer<const float>(theta)) {}

    int threads;
    Engine engine;
    PackedNetwork network;
};

// A population of one-unit members on a batch, with the arrays that keep what the batch makes of it.
class UnitCall {
   public:
    UnitCall(const Execution& execution, Flush flush, const Program& program, Address theta,
             const UnitPopulation& population, std::int64_t pairs, Batches batch, const std::array<Address, 4>& state)
        : call_(execution, flush, program, theta),
          job{call_.engine,
              call_.threads,
              call_.network,
              pointer<const float>(theta),
              population,
              UnitLayout(program.steps, population.draws),
              batch,
              pairs,
              {pointer<float>(state[0]), pointer<float>(state[1]), pointer<double>(state[2]),
               pointer<double>(state[3])}} {}

   private:
    NetworkCall call_;

   public:
    UnitJob job;
};

// Whether this thread is the one in which Python handles signals. Needs the GIL.
bool in_main_thread() {
    // Never destroyed: it may be asked for as long as there is an interpreter.
    static const auto* main_thread = new py::object(py::module_::import("threading").attr("main_thread"));
    return (*main_thread)().attr("ident").cast<unsigned long>() == PyThread_get_thread_ident();
}

// Lets Python handle what signals have come. Whether a handler has raised an exception, which is left pending.
bool signal_raised() noexcept {
    const FpMode as_usual(false);
    const PyGILState_STATE state = PyGILState_Ensure();
    const bool raised = PyErr_CheckSignals() != 0;
    PyGILState_Release(state);
    return raised;
}

// At the end of the process Python ends a thread that asks for the GIL, by unwinding its stack; which ends the process
// instead where a function on it isn't meant to throw, as destructors are. Such a thread waits here for the end.
void take_gil(PyThreadState* state) {
#if defined(__GLIBCXX__)
    try {
        PyEval_RestoreThread(state);
    } catch (const abi::__forced_unwind&) {
        for (;;) pause();
    }
#else
    PyEval_RestoreThread(state);
#endif
}

// Calls body() without the GIL. What lies between the kernels computes too (scales, sums of losses): in IEEE mode,
// whatever the caller's is. A signal ends it early, by the exception that its handler raises.
template <class Body>
void without_gil(Body body) {
    bool (*const asked)() noexcept = in_main_thread() ? &signal_raised : nullptr;
    PyThreadState* const state = PyEval_SaveThread();
    std::exception_ptr failure;
    try {
        const FpMode ieee(false);
        const Interruption interruption(asked);
        body();
    } catch (...) {
        failure = std::current_exception();
    }
    take_gil(state);
    if (PyErr_Occurred()) throw py::error_already_set();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU backend of fpes. Private: use the functions of the package.";

    define_population_types(m);
    py::class_<Execution>(m, "Execution")
        .def(py::init([](std::string isa, int threads) { return Execution{std::move(isa), threads}; }), py::arg("isa"),
             py::arg("threads"));

    m.def("supported_isas", &supported_isas);
    m.def("lanes", [](const std::string& isa) { return kernels_for(isa).lanes; });

    m.def("gemm", [](const Execution& execution, Flush flush, Address a, Address b, Address c, std::int64_t rows,
                     std::int64_t columns, std::int64_t depth) {
        without_gil([&] {
            const Engine engine(kernels_for(execution.isa), flush);
            gemm(engine, execution.threads, pointer<const float>(a), pointer<const float>(b), pointer<float>(c), rows,
                 columns, depth);
        });
    });
    m.def("bias_add", [](const Execution& execution, Flush flush, Address v, Address bias, Address out,
                         std::int64_t rows, std::int64_t columns) {
        without_gil([&] {
            const Engine engine(kernels_for(execution.isa), flush);
            bias_add(engine, execution.threads, pointer<const float>(v), pointer<const float>(bias),
                     pointer<float>(out), rows, columns);
        });
    });
    m.def("multiply",
          [](const Execution& execution, Flush flush, Address v, double factor, Address out, std::int64_t count) {
              // Rounded to float in IEEE mode, not in the caller's: volatile keeps it behind the change of mode.
              const volatile double exact = factor;
              without_gil([&] {
                  const Engine engine(kernels_for(execution.isa), flush);
                  multiply(engine, execution.threads, pointer<const float>(v), static_cast<float>(exact),
                           pointer<float>(out), count);
              });
          });

    m.def("losses", [](const Execution& execution, Flush flush, Address outputs, std::int64_t rows, std::int64_t count,
                       const LossTargets& targets, Address out) {
        without_gil([&] {
            const Engine engine(kernels_for(execution.isa), flush);
            losses(engine, execution.threads, pointer<const float>(outputs), rows, count, targets_at(targets, count),
                   pointer<float>(out));
        });
    });

    m.def("noise",
          [](const Execution& execution, NoiseKind kind, std::uint64_t seed, int layer, NoiseRole role,
             std::uint32_t pair, std::uint32_t generation, std::uint64_t first, std::int64_t count, Address out) {
              const Kernels& kernels = kernels_for(execution.isa);
              without_gil([&] {
                  const PhiloxKey key{{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
                  const NoiseStream stream{key, noise_tensor(layer, role), pair, generation, kind};
                  draw_noise(kernels, execution.threads, stream, first, count, pointer<float>(out));
              });
          });

    m.def("forward", [](const Execution& execution, Flush flush, const Program& program, Address theta, Address x,
                        std::int64_t batch, Address outputs) {
        without_gil([&] {
            NetworkCall call(execution, flush, program, theta);
            forward(call.engine, call.threads, call.network, pointer<const float>(x), batch, pointer<float>(outputs));
        });
    });
    m.def("population_evaluate", [](const Execution& execution, Flush flush, const Program& program, Address theta,
                                    const Population& population, std::int64_t first_pair, std::int64_t end_pair,
                                    Address x, const LossTargets& targets, const std::array<std::int64_t, 3>& batch,
                                    Address sums, Address fitness, Address losses) {
        without_gil([&] {
            NetworkCall call(execution, flush, program, theta);
            const Job job{call.engine,
                          call.threads,
                          call.network,
                          population,
                          {first_pair, end_pair},
                          batches_at(x, targets_at(targets, outputs_of(program)), batch),
                          pointer<float>(sums)};
            evaluate(job, pointer<float>(fitness), pointer<float>(losses));
        });
    });
    m.def("population_forward", [](const Execution& execution, Flush flush, const Program& program, Address theta,
                                   const Population& population, std::int64_t first_pair, std::int64_t end_pair,
                                   Address x, const std::array<std::int64_t, 3>& batch, Address sums, Address out) {
        without_gil([&] {
            NetworkCall call(execution, flush, program, theta);
            const Job job{call.engine,         call.threads,           call.network,
                          population,          {first_pair, end_pair}, batches_at(x, {}, batch),
                          pointer<float>(sums)};
            outputs(job, pointer<float>(out));
        });
    });
    m.def("population_member", [](const Execution& execution, Flush flush, const Program& program, Address theta,
                                  const Population& population, std::int64_t index, Address out) {
        without_gil([&] {
            NetworkCall call(execution, flush, program, theta);
            member(call.engine, call.network, population, index, pointer<float>(out));
        });
    });
    m.def("population_gradient", [](const Execution& execution, const Program& program, const Population& population,
                                    Address weights, bool integers, std::int64_t members, std::int64_t first_pair,
                                    std::int64_t end_pair, Address sums, Address out) {
        without_gil([&] {
            const Engine engine(kernels_for(execution.isa), Flush::never);
            const PairWeights pairs = integers ? pair_weights(pointer<const std::int64_t>(weights), members)
                                               : pair_weights(pointer<const float>(weights), members);
            gradient({engine,
                      execution.threads,
                      program.tensors,
                      population,
                      pairs,
                      {first_pair, end_pair},
                      pointer<float>(out),
                      pointer<std::int64_t>(sums)});
        });
    });
    m.def("scale_sums", [](const Execution&, const Program& program, const Population& population, std::int64_t pairs,
                           Address sums, Address out) {
        without_gil([&] {
            scale_sums(program.tensors, population, pairs, pointer<const std::int64_t>(sums), pointer<float>(out));
        });
    });
    m.def(
        "population_sample_gradient",
        [](const Execution& execution, Flush flush, const Program& program, Address theta, const Population& population,
           std::int64_t pairs, std::int64_t first_pair, std::int64_t end_pair, Address x,
           const std::array<std::int64_t, 3>& batch, Address weights, bool per_sample, Address sums, Address out) {
            without_gil([&] {
                NetworkCall call(execution, flush, program, theta);
                const Job job{call.engine,         call.threads,           call.network,
                              population,          {first_pair, end_pair}, batches_at(x, {}, batch),
                              pointer<float>(sums)};
                sample_gradient(job, sample_weights(weights, per_sample, first_pair, job.batch), pairs,
                                pointer<float>(out));
            });
        });

    m.def("unit_prepare", [](const Execution& execution, Flush flush, const Program& program, Address theta,
                             const UnitPopulation& population, std::int64_t pairs, Address x, const BatchShape& batch,
                             const std::array<Address, 4>& state, std::int64_t first_batch, std::int64_t end_batch) {
        without_gil([&] {
            const UnitCall call(execution, flush, program, theta, population, pairs, batches_at(x, {}, batch), state);
            unit_prepare(call.job, {first_batch, end_batch});
        });
    });
    m.def("unit_evaluate", [](const Execution& execution, Flush flush, const Program& program, Address theta,
                              const UnitPopulation& population, std::int64_t pairs, Address x, const BatchShape& batch,
                              const std::array<Address, 4>& state, std::int64_t first_pair, std::int64_t end_pair,
                              const LossTargets& targets, const std::array<Address, 5>& results) {
        without_gil([&] {
            const UnitCall call(execution, flush, program, theta, population, pairs,
                                batches_at(x, targets_at(targets, outputs_of(program)), batch), state);
            unit_evaluate(call.job, {first_pair, end_pair},
                          {pointer<const float>(results[0]), pointer<float>(results[1]), pointer<float>(results[2]),
                           pointer<float>(results[3]), pointer<float>(results[4])});
        });
    });
    m.def("unit_gradient", [](const Execution& execution, Flush flush, const Program& program, Address theta,
                              const UnitPopulation& population, std::int64_t pairs, Address x, const BatchShape& batch,
                              const std::array<Address, 4>& state, Address weights, bool integers, Address out) {
        without_gil([&] {
            const UnitCall call(execution, flush, program, theta, population, pairs, batches_at(x, {}, batch), state);
            if (integers) {
                unit_gradient(call.job, pointer<const std::int64_t>(weights), pointer<float>(out));
            } else {
                unit_gradient(call.job, pointer<const float>(weights), pointer<float>(out));
            }
        });
    });
    m.def("unit_member", [](const Execution& execution, Flush flush, const Program& program, Address theta,
                            const UnitPopulation& population, std::int64_t pairs, Address x, const BatchShape& batch,
                            const std::array<Address, 4>& state, std::int64_t index, Address out) {
        without_gil([&] {
            const UnitCall call(execution, flush, program, theta, population, pairs, batches_at(x, {}, batch), state);
            unit_member(call.job, index, pointer<float>(out));
        });
    });

    m.def("adam", [](const Execution& execution, const std::array<float, 6>& step, Address gradient,
                     const std::array<Address, 3>& before, std::int64_t count, const std::array<Address, 3>& after) {
        without_gil([&] {
            adam(execution.threads, {step[0], step[1], step[2], step[3], step[4], step[5]},
                 pointer<const float>(gradient),
                 {pointer<const float>(before[0]), pointer<const float>(before[1]), pointer<const float>(before[2])},
                 count, {pointer<float>(after[0]), pointer<float>(after[1]), pointer<float>(after[2])});
        });
    });
    m.def("weighted_sum",
          [](const Execution& execution, float a, Address x, float b, Address y, std::int64_t count, Address out) {
              without_gil([&] {
                  weighted_sum(execution.threads, a, pointer<const float>(x), b, pointer<const float>(y), count,
                               pointer<float>(out));
              });
          });
    m.def("sum_of_squares", [](const Execution& execution, Address x, std::int64_t count) {
        double sum = 0.0;
        without_gil([&] { sum = sum_of_squares(execution.threads, pointer<const float>(x), count); });
        return sum;
    });
    m.def("warp", [](const Execution& execution, Address images, const std::array<int, 2>& shape, Address chosen,
                     std::int64_t count, Address displacements, const std::array<int, 2>& grid, Address out) {
        without_gil([&] {
            warp(execution.threads, {pointer<const float>(images), shape[0], shape[1]},
                 pointer<const std::int64_t>(chosen), count, {pointer<const float>(displacements), grid[0], grid[1]},
                 pointer<float>(out));
        });
    });

    // For arithmetic in Python: the mode of the calling thread.
    m.def("exchange_mode_for_ieee", &FpMode::exchange_for_ieee);
    m.def("put_back_mode", &FpMode::put_back);

    // For the benchmarks: multiply-adds without memory, on every thread at once. Returns their number.
    m.def("multiply_add_chains", [](const Execution& execution, bool ftz, std::int64_t steps) {
        const Kernels& kernels = kernels_for(execution.isa);
        without_gil([&] {
            const Engine engine(kernels, ftz ? Flush::always : Flush::never);
            multiply_add_chains(engine, execution.threads, steps);
        });
        return steps * kernels.peak_chains * kernels.lanes * execution.threads;
    });

    // For the tests: the shared elementary functions, and the mode of the calling thread.
    m.def("elementary",
          [](const std::string& name, const std::string& isa, bool ftz, Address x, Address out, std::int64_t count) {
              const auto kernel = name == "exp"                  ? &ModeKernels::exp
                                  : name == "exp_of_nonpositive" ? &ModeKernels::exp_of_nonpositive
                                  : name == "log"                ? &ModeKernels::log
                                                                 : nullptr;
              if (!kernel)
                  throw std::invalid_argument("name is '" + name + "', expected exp, exp_of_nonpositive or log");
              without_gil([&] {
                  const Engine engine(kernels_for(isa), ftz ? Flush::always : Flush::never);
                  engine.elementwise(kernel, pointer<const float>(x), count, pointer<float>(out));
              });
          });
    m.def("normal_pair", [](const std::string& isa, bool ftz, Address bits0, Address bits1, Address z0, Address z1,
                            std::int64_t count) {
        without_gil([&] {
            const Engine engine(kernels_for(isa), ftz ? Flush::always : Flush::never);
            engine.elementwise(&ModeKernels::normal_pair, pointer<const std::uint32_t>(bits0),
                               pointer<const std::uint32_t>(bits1), count, pointer<float>(z0), pointer<float>(z1));
        });
    });
    m.def(
        "set_flush_bits", [](bool on) { FpMode::set_flush_bits(on); },
        "Set or clear FTZ and DAZ in the calling thread, as careless libraries do.");
    m.def("flush_bits", [] { return FpMode::flush_bits_set(); });
}
