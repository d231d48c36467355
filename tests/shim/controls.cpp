#include "shim/controls.hpp"

#include "shim/platform.hpp"

namespace fpes::shim {

extern int shared_per_block;
extern int multiprocessors;
extern std::int64_t floats_at_a_time;

void define_controls(pybind11::module_& m) {
    m.def("set_reverse_order", &set_reverse_order, "Run fibers and blocks in descending order.");
    m.def("set_device", [](int shared, int count, std::int64_t floats) {
        shared_per_block = shared;
        multiprocessors = count;
        floats_at_a_time = floats;
    });
    define_wrong_kernels(m);
}

}  // namespace fpes::shim
