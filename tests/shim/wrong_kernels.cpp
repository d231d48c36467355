// Small kernels that can be made wrong on purpose: they show that the shim sees what it is there to see.
#include "shim/controls.hpp"

#include "../../csrc/cuda/intrinsics.hpp"

FPES_NAMESPACE_BEGIN
namespace {

constexpr int threads = 64;

// out[i] = the thread that is i's neighbour, by way of shared memory. Without the barrier it depends on who runs first.
__global__ void neighbour_kernel(bool barrier, int distance, int* out) {
    int* const shared = dynamic_shared<int>();
    shared[thread_index()] = thread_index();
    if (barrier) __syncthreads();
    out[thread_index()] = shared[(thread_index() + distance + threads) % threads];
}

// The upper half of the threads comes to another barrier than the lower half, or to none.
__global__ void diverged_kernel(bool ends) {
    if (thread_index() < threads / 2) {
        __syncthreads();
    } else if (!ends) {
        __syncthreads();
    }
}

// Writes one float beyond the block's shared memory.
__global__ void overrun_kernel() { dynamic_shared<float>()[threads + thread_index() / (threads - 1)] = 0.0f; }

// out[i] = in[i], copied behind the threads' backs; or, if that is read too late, what the copy overwrites.
__global__ void copy_kernel(bool wait, bool late, const float* in, float* out) {
    float* const shared = dynamic_shared<float>();
    shared[thread_index()] = 1.0f;
    copy_async<1>(shared + thread_index(), in + thread_index(), true);
    commit_copies();
    if (late) out[thread_index()] = shared[thread_index()];
    if (wait) wait_for_copies<0>();
    __syncthreads();
    if (!late) out[thread_index()] = shared[thread_index()];
}

// Four floats from an address that is `offset` floats beyond a multiple of 16 bytes, to another.
__global__ void vector_kernel(int from, int to) {
    float* const shared = dynamic_shared<float>();
    float four[4];
    load4(shared + from, four);
    store4(shared + to, four);
}

// Counts in memory that is as it was.
__global__ void count_kernel(unsigned* count) { publish_and_count(count, 1); }

// Products and sums in both of a build's arithmetics: out[0 ... 4] = plain a b + c, and never flushed a b + c, a b, a +
// b, a - b.
__global__ void arithmetic_kernel(const float* a, const float* b, const float* c, std::int64_t count, float* out) {
    for (std::int64_t i = 0; i < count; ++i) {
        out[i] = Plain::fma(a[i], b[i], c[i]);
        out[count + i] = Ieee::fma(a[i], b[i], c[i]);
        out[2 * count + i] = Ieee::mul(a[i], b[i]);
        out[3 * count + i] = Ieee::add(a[i], b[i]);
        out[4 * count + i] = Ieee::sub(a[i], b[i]);
    }
}

constexpr int shared_bytes = threads * static_cast<int>(sizeof(float));

template <class Kernel, class... Arguments>
void run(Kernel kernel, Arguments... arguments) {
    const Device device{1, shared_bytes, 90, "host shim"};
    launch(kernel, Grid{1}, threads, shared_bytes, Context{nullptr, device, Arena::measure()}, arguments...);
}

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

}  // namespace

FPES_NAMESPACE_END

namespace fpes::shim {

void define_wrong_kernels(pybind11::module_& m) {
    using Address = std::uintptr_t;
    m.attr("wrong_kernel_threads") = threads;
    m.def("neighbour",
          [](bool barrier, int distance, Address out) { run(neighbour_kernel, barrier, distance, pointer<int>(out)); });
    m.def("diverged", [](bool ends) { run(diverged_kernel, ends); });
    m.def("overrun", [] { run(overrun_kernel); });
    m.def("copy", [](bool wait, bool late, Address in, Address out) {
        run(copy_kernel, wait, late, pointer<const float>(in), pointer<float>(out));
    });
    m.def("move_four", [](int from, int to) { run(vector_kernel, from, to); });
    m.def("count", [](Address count) { run(count_kernel, pointer<unsigned>(count)); });
    m.def("arithmetic", [](Address a, Address b, Address c, std::int64_t count, Address out) {
        const Device device{1, 0, 90, "host shim"};
        launch(arithmetic_kernel, Grid{1}, 1, 0, Context{nullptr, device, Arena::measure()}, pointer<const float>(a),
               pointer<const float>(b), pointer<const float>(c), count, pointer<float>(out));
    });
}

}  // namespace fpes::shim
