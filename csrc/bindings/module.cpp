// Python module monosem._C: the CPU kernels. Tensors come as checked views (tensor.h), so that no headers of PyTorch are
// needed.
#include "register.h"

namespace ms {

void check_device(pybind11::handle tensor, const char* name) {
  if (!tensor.attr("is_cpu").cast<bool>())
    TensorView::refuse(name, "a tensor on " + std::string(pybind11::str(tensor.attr("device"))), "one on the CPU");
}

}  // namespace ms

PYBIND11_MODULE(_C, m) {
  m.doc() = "monosem's CPU kernels; call them through monosem.ops";
  m.attr("interface") = 8;  // raised when a call changes, so that an older build is refused (ops/backend.py)
  ms::bindings::register_machine(m);
  ms::bindings::register_quantize(m);
  ms::bindings::register_topk_encode(m);
  ms::bindings::register_threshold_encode(m);
  ms::bindings::register_sparse_decode(m);
  ms::bindings::register_decode_loss(m);
  ms::bindings::register_code(m);
  ms::bindings::register_csc(m);
  ms::bindings::register_row_grad(m);
  ms::bindings::register_row_adam(m);
  ms::bindings::register_resample(m);
}
