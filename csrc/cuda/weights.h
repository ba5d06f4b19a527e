// Compile-time types and load widths of the kernels that read decoder rows.
#pragma once

#include <type_traits>

#include "../../kernels/common/arguments.h"
#include "launch.h"

namespace ms::cuda {

// call(data, width), with the data in its own type and a width of 16 bytes where D and the addresses allow, else 1.
template <class Call, class... P>
void dispatch_dtype(const Weights& w, const Call& call, const P*... rows) {
  const bool wide = all_aligned(static_cast<const char*>(w.data), rows...);
  if (w.dtype == Dtype::f32) {
    const float* data = static_cast<const float*>(w.data);
    if (wide && w.d % 4 == 0) call(data, std::integral_constant<int, 4>{});
    else call(data, std::integral_constant<int, 1>{});
  } else {
    const bf16* data = static_cast<const bf16*>(w.data);
    if (wide && w.d % 8 == 0) call(data, std::integral_constant<int, 8>{});
    else call(data, std::integral_constant<int, 1>{});
  }
}

// The element type of a pointer that `dispatch_dtype` gave.
template <class Pointer>
using element = std::remove_const_t<std::remove_pointer_t<Pointer>>;

}  // namespace ms::cuda
