// Tensors of PyTorch as views (address, shape, dtype), without its headers: read from the Python object, and checked.
//
// A kernel trusts the addresses and sizes that it gets. So a tensor's device and layout are checked where it is read,
// and its address is given out only with the dtype and the shape that the kernel will read or write.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "../../kernels/common/arguments.h"

namespace ms {

enum class Kind { none, f32, bf16, f64, int8, uint8, int32, int64, other };

template <class T> constexpr Kind kind_of = Kind::other;
template <> inline constexpr Kind kind_of<float> = Kind::f32;
template <> inline constexpr Kind kind_of<bf16> = Kind::bf16;
template <> inline constexpr Kind kind_of<double> = Kind::f64;
template <> inline constexpr Kind kind_of<int8_t> = Kind::int8;
template <> inline constexpr Kind kind_of<uint8_t> = Kind::uint8;
template <> inline constexpr Kind kind_of<int32_t> = Kind::int32;
template <> inline constexpr Kind kind_of<int64_t> = Kind::int64;

inline const char* name_of(Kind kind) {
  static const char* const names[] = {"None",        "torch.float32", "torch.bfloat16", "torch.float64", "torch.int8",
                                      "torch.uint8", "torch.int32",   "torch.int64",    "another dtype"};
  return names[int(kind)];
}

// A contiguous tensor, or None.
struct TensorView {
  static constexpr int kMaxDims = 4;

  uintptr_t data = 0;
  Kind kind = Kind::none;
  int dims = 0;
  int64_t shape[kMaxDims] = {};

  explicit operator bool() const { return kind != Kind::none; }

  int64_t count() const {
    int64_t product = 1;
    for (int i = 0; i < dims; ++i) product *= shape[i];
    return *this ? product : 0;
  }

  // Rows and columns of a matrix.
  int64_t rows(const char* name) const { return matrix(name), shape[0]; }
  int64_t columns(const char* name) const { return matrix(name), shape[1]; }

  // Elements of a tensor of exactly this shape.
  template <class T>
  T* of(const char* name, std::initializer_list<int64_t> wanted) const {
    must_be(name, kind_of<T>);
    has_shape(name, wanted);
    return reinterpret_cast<T*>(data);
  }

  // Elements of a tensor of any shape that holds at least so many.
  template <class T>
  T* at_least(const char* name, int64_t wanted) const {
    must_be(name, kind_of<T>);
    has(name, wanted);
    return reinterpret_cast<T*>(data);
  }

  // The address, whatever the dtype.
  void* raw() const { return reinterpret_cast<void*>(data); }

  // A matrix of float32 or bfloat16.
  Weights weights(const char* name) const {
    if (kind != Kind::f32 && kind != Kind::bf16) refuse(name, name_of(kind), "torch.float32 or torch.bfloat16");
    matrix(name);
    return {raw(), kind == Kind::f32 ? Dtype::f32 : Dtype::bf16, shape[1]};
  }

  void has(const char* name, int64_t wanted) const {
    if (wanted < 0 || count() < wanted)
      refuse(name, std::to_string(count()) + " elements", "at least " + std::to_string(wanted));
  }

  void has_shape(const char* name, std::initializer_list<int64_t> wanted) const {
    bool same = dims == int(wanted.size());
    for (int i = 0; same && i < dims; ++i) same = shape[i] == wanted.begin()[i];
    if (!same) refuse(name, text(shape, dims), text(wanted.begin(), int(wanted.size())));
  }

  [[noreturn]] static void refuse(const char* name, const std::string& got, const std::string& wanted) {
    throw pybind11::value_error(std::string(name) + ": got " + got + "; wanted " + wanted +
                                ". Call the kernels through monosem.ops, which brings tensors into order");
  }

 private:
  void must_be(const char* name, Kind wanted) const {
    if (kind != wanted) refuse(name, name_of(kind), name_of(wanted));
  }

  void matrix(const char* name) const {
    if (dims != 2) refuse(name, text(shape, dims), "a matrix");
  }

  static std::string text(const int64_t* sizes, int n) {
    std::string list;
    for (int i = 0; i < n; ++i) list += (i ? ", " : "") + std::to_string(sizes[i]);
    return "[" + list + "]";
  }
};

// Throws unless the tensor is on the device of this module's kernels. Each module defines it.
void check_device(pybind11::handle tensor, const char* name);

inline Kind read_kind(pybind11::handle dtype) {
  // The dtypes of PyTorch are single objects that live as long as it does.
  static PyObject* known[int(Kind::other)] = {};
  if (!known[1]) {
    const pybind11::module_ torch = pybind11::module_::import("torch");
    for (int i = int(Kind::other) - 1; i > 0; --i)
      known[i] = torch.attr(name_of(Kind(i)) + sizeof "torch." - 1).ptr();
  }
  for (int i = 1; i < int(Kind::other); ++i)
    if (dtype.ptr() == known[i]) return Kind(i);
  return Kind::other;
}

inline TensorView read_tensor(pybind11::handle from, const char* name) {
  if (from.is_none()) return {};
  check_device(from, name);
  if (!from.attr("is_contiguous")().cast<bool>()) TensorView::refuse(name, "a strided tensor", "a contiguous one");
  const pybind11::tuple shape = from.attr("shape");
  if (shape.size() > TensorView::kMaxDims)
    TensorView::refuse(name, std::to_string(shape.size()) + " dimensions", "at most 4");
  TensorView view;
  view.data = from.attr("data_ptr")().cast<uintptr_t>();
  view.kind = read_kind(from.attr("dtype"));
  for (const pybind11::handle size : shape) view.shape[view.dims++] = size.cast<int64_t>();
  return view;
}

// The tensor that is an attribute of a structure.
inline TensorView read_field(pybind11::handle from, const char* name) {
  const pybind11::object field = from.attr(name);
  if (!field.is_none() && !hasattr(field, "data_ptr"))
    throw pybind11::type_error(std::string(name) + ": got " + Py_TYPE(field.ptr())->tp_name + "; wanted a tensor");
  return read_tensor(field, name);
}

}  // namespace ms

namespace pybind11::detail {

template <>
struct type_caster<ms::TensorView> {
  PYBIND11_TYPE_CASTER(ms::TensorView, const_name("torch.Tensor | None"));

  bool load(handle from, bool) {
    if (!from.is_none() && !hasattr(from, "data_ptr")) return false;
    value = ms::read_tensor(from, "tensor");
    return true;
  }
};

}  // namespace pybind11::detail
