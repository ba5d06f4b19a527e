// What this processor and build have, and large pages.
#include <pybind11/stl.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <string>

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
  const Panels panels = kernels().panels(product, d);
  const auto* tokens = x.at_least<int32_t>("x", panels.words * panels.tokens);
  const auto* features = w.at_least<int32_t>("w", panels.words * panels.features);
  kernels().int_gemm_repeat(product, reinterpret_cast<const uint32_t*>(tokens),
                            reinterpret_cast<const uint32_t*>(features), d, times, threads);
}

}  // namespace

void register_machine(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("isa", [] { return std::string(kernels().name); }, "the instruction set in use");
  m.def("isas", [] { return available_isas(); }, "the instruction sets that this build and processor have");
  m.def("fast_int8", [] { return kernels().fast_int8; }, "whether int8 products are faster here than int16");
  py::class_<Panels>(m, "Panels", "how quantised rows stand: [panel][group of columns][row of the panel][column]")
      .def_readonly("tokens", &Panels::tokens)
      .def_readonly("features", &Panels::features)
      .def_readonly("token_group", &Panels::token_group)
      .def_readonly("feature_group", &Panels::feature_group)
      .def_readonly("words", &Panels::words);
  m.def("panels", [](const std::string& product, int64_t d) { return kernels().panels(product_named(product), d); },
        py::arg("product"), py::arg("d"));
  m.def("large_pages", &large_pages, py::arg("data"), py::arg("bytes"), NoGil());
  m.def("int_gemm_repeat", &int_gemm_repeat, py::arg("product"), py::arg("x"), py::arg("w"), py::arg("d"),
        py::arg("times"), py::arg("threads"), NoGil(), "the product of one panel by one panel, over and over");
}

}  // namespace ms::bindings
