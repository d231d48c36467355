// What tests may change about the shim, and kernels that are wrong on purpose, for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace fpes::shim {

void define_controls(pybind11::module_& m);
void define_wrong_kernels(pybind11::module_& m);

}  // namespace fpes::shim
