// One function per file of bindings adds its operation to the module _C.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "structs.h"

namespace ms::bindings {

void register_machine(pybind11::module_&);
void register_quantize(pybind11::module_&);
void register_topk_encode(pybind11::module_&);
void register_threshold_encode(pybind11::module_&);
void register_sparse_decode(pybind11::module_&);
void register_decode_loss(pybind11::module_&);
void register_code(pybind11::module_&);
void register_csc(pybind11::module_&);
void register_row_grad(pybind11::module_&);
void register_row_adam(pybind11::module_&);
void register_resample(pybind11::module_&);

using NoGil = pybind11::call_guard<pybind11::gil_scoped_release>;

// Throws IndexError unless the condition holds: for requirements on the numbers in a tensor, not on its size.
inline void require(bool holds, const char* message) {
  if (!holds) throw pybind11::index_error(message);
}

// A code of which the kernel reads the values, or not.
inline Code with_values(const CodeView& c) {
  const int64_t n = c.tokens();
  const int64_t* offsets = c.offsets.of<int64_t>("offsets", {n + 1});
  return {c.values.at_least<float>("values", offsets[n]), c.indices.at_least<int32_t>("indices", offsets[n]), offsets, n};
}

inline Code without_values(const CodeView& c) {
  const int64_t n = c.tokens();
  const int64_t* offsets = c.offsets.of<int64_t>("offsets", {n + 1});
  return {nullptr, c.indices.at_least<int32_t>("indices", offsets[n]), offsets, n};
}

// A sorted code whose places are checked: those of `coefs` entries, and of `rows` tokens where the kernel reads them.
Csc checked(const SortedCodeView&, int64_t coefs);
Csc checked(const SortedCodeView&, int64_t coefs, int64_t rows);

}  // namespace ms::bindings
