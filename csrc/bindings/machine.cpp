// What this processor and build have, and large pages.
#include <pybind11/stl.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <string>
#include <utility>

#include "../cpu/kernels.h"
#include "encoder.h"
#include "register.h"

namespace ms::bindings {
namespace {

// Large pages for memory whose rows are read in random order. Best effort (Linux only); results do not depend on it.
void large_pages(uintptr_t data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + uintptr_t(bytes)) / kPage * kPage;
  if (begin >= end) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

void int_gemm_repeat(const std::string& product_name, const TensorView& x, const TensorView& w, int64_t d,
                     int64_t times, int threads) {
  const IntProduct product = product_named(product_name);
  const auto* tokens = x.at_least<int32_t>("x", words(product, d) * kernels().token_panel);
  const auto* features = w.at_least<int32_t>("w", words(product, d) * kernels().feature_panel);
  kernels().int_gemm_repeat(product, reinterpret_cast<const uint32_t*>(tokens),
                            reinterpret_cast<const uint32_t*>(features), d, times, threads);
}

}  // namespace

void register_machine(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("isa", [] { return std::string(kernels().name); }, "the instruction set in use");
  m.def("isas", [] { return available_isas(); }, "the instruction sets that this build and processor have");
  m.def("fast_int8", [] { return kernels().fast_int8; }, "whether int8 products are faster here than int16");
  m.def("panels", [] { return std::make_pair(kernels().token_panel, kernels().feature_panel); },
        "tokens and features per panel of quantised rows");
  m.def("large_pages", &large_pages, py::arg("data"), py::arg("bytes"), NoGil());
  m.def("int_gemm_repeat", &int_gemm_repeat, py::arg("product"), py::arg("x"), py::arg("w"), py::arg("d"),
        py::arg("times"), py::arg("threads"), NoGil(), "the product of one panel by one panel, over and over");
}

}  // namespace ms::bindings
