#include "shim/controls.hpp"

#include "shim/platform.hpp"

namespace fpes::shim {

extern int shared_per_block;
extern int multiprocessors;

void define_controls(pybind11::module_& m) {
    m.def("set_reverse_order", &set_reverse_order, "Run fibers and blocks in descending order.");
    m.def("set_device", [](int shared, int count) {
        shared_per_block = shared;
        multiprocessors = count;
    });
    define_wrong_kernels(m);
}

}  // namespace fpes::shim
