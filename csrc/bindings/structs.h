// Structures of monosem.ops.structs as the kernels take them, read from the attributes of the Python object.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "../../kernels/common/arguments.h"
#include "tensor.h"

namespace ms {

// Entries of tokens; `values` may be None where the kernel does not read them. Indices are features: the caller has
// checked them (ops/layout.py).
struct CodeView {
  TensorView values, indices, offsets;

  int64_t tokens() const {
    if (offsets.count() < 1) TensorView::refuse("offsets", "0 elements", "tokens + 1");
    return offsets.count() - 1;
  }
};

struct SortedCodeView {
  TensorView starts, entries, tokens;

  int64_t features() const {
    if (starts.count() < 1) TensorView::refuse("starts", "0 elements", "features + 1");
    return starts.count() - 1;
  }
};

struct MomentsView {
  TensorView m, v, scales;

  // Of rows [rows, d]. `scales`: of int8 moments, those of m for every row and then those of v.
  Moments of(int64_t rows, int64_t d) const {
    if (m.kind == Kind::int8) {
      float* m_scales = scales.of<float>("scales", {2, rows});
      return {m.of<int8_t>("m", {rows, d}), v.of<uint8_t>("v", {rows, d}), Dtype::int8, m_scales, m_scales + rows};
    }
    if (m.kind == Kind::bf16)
      return {m.of<bf16>("m", {rows, d}), v.of<bf16>("v", {rows, d}), Dtype::bf16, nullptr, nullptr};
    return {m.of<float>("m", {rows, d}), v.of<float>("v", {rows, d}), Dtype::f32, nullptr, nullptr};
  }
};

struct EncoderCopyView {
  TensorView rows, norms;  // None: there is no copy
};

struct AdamStepView {
  AdamStep step;
  TensorView live;  // the factors on a GPU, or None
  TensorView own;   // or None

  // Of rows [rows, d].
  AdamStep of(int64_t rows, int64_t d) const {
    AdamStep known = step;
    if (!own) return known;
    const int64_t blocks = own.columns("own");
    if (blocks < 1 || d % blocks)
      TensorView::refuse("own", std::to_string(blocks) + " columns", "a divisor of " + std::to_string(d));
    known.own = {own.of<float>("own", {rows, blocks}), blocks};
    return known;
  }
};

}  // namespace ms

namespace pybind11::detail {

template <>
struct type_caster<ms::SortedCodeView> {
  PYBIND11_TYPE_CASTER(ms::SortedCodeView, const_name("SortedCode"));

  bool load(handle from, bool) {
    if (!hasattr(from, "starts")) return false;
    value = {ms::read_field(from, "starts"), ms::read_field(from, "entries"),
             ms::read_field(from, "tokens")};
    return true;
  }
};

template <>
struct type_caster<ms::MomentsView> {
  PYBIND11_TYPE_CASTER(ms::MomentsView, const_name("Moments"));

  bool load(handle from, bool) {
    if (!hasattr(from, "scales")) return false;
    value = {ms::read_field(from, "m"), ms::read_field(from, "v"),
             ms::read_field(from, "scales")};
    return true;
  }
};

template <>
struct type_caster<ms::EncoderCopyView> {
  PYBIND11_TYPE_CASTER(ms::EncoderCopyView, const_name("EncoderCopy | None"));

  bool load(handle from, bool) {
    if (from.is_none()) return true;
    if (!hasattr(from, "norms")) return false;
    value = {ms::read_field(from, "rows"), ms::read_field(from, "norms")};
    return true;
  }
};

template <>
struct type_caster<ms::AdamStepView> {
  PYBIND11_TYPE_CASTER(ms::AdamStepView, const_name("AdamStep"));

  bool load(handle from, bool) {
    if (!hasattr(from, "beta1")) return false;
    ms::AdamStep& step = value.step;
    step.lr = from.attr("lr").cast<double>();
    step.beta1 = from.attr("beta1").cast<double>();
    step.beta2 = from.attr("beta2").cast<double>();
    step.eps = from.attr("eps").cast<double>();
    step.step = from.attr("step").cast<int64_t>();
    step.unit = from.attr("unit").cast<bool>();
    step.lazy = from.attr("lazy").cast<bool>();
    value.live = ms::read_field(from, "live");
    value.own = ms::read_field(from, "own");
    return true;
  }
};

}  // namespace pybind11::detail
