// Tensors of PyTorch as the kernels want them, without its headers: read from the Python object, and checked.
//
// A kernel follows addresses and sizes blindly. So every tensor that comes here says its device, layout, dtype and number
// of elements, and no address is handed out before they are what the kernel will read or write.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "../../kernels/common/arguments.h"

namespace ms {

enum class Kind { none, f32, bf16, int8, uint8, int32, int64, other };

template <class T> constexpr Kind kind_of = Kind::other;
template <> inline constexpr Kind kind_of<float> = Kind::f32;
template <> inline constexpr Kind kind_of<bf16> = Kind::bf16;
template <> inline constexpr Kind kind_of<int8_t> = Kind::int8;
template <> inline constexpr Kind kind_of<uint8_t> = Kind::uint8;
template <> inline constexpr Kind kind_of<int32_t> = Kind::int32;
template <> inline constexpr Kind kind_of<int64_t> = Kind::int64;

inline const char* name_of(Kind kind) {
  static const char* const names[] = {"None",        "torch.float32", "torch.bfloat16", "torch.int8",
                                      "torch.uint8", "torch.int32",   "torch.int64",    "another dtype"};
  return names[int(kind)];
}

// A contiguous tensor on the CPU, or None.
struct Array {
  uintptr_t data = 0;
  int64_t count = 0;
  Kind kind = Kind::none;

  explicit operator bool() const { return kind != Kind::none; }

  // Its elements, of which there must be so many.
  template <class T>
  T* of(const char* name, int64_t wanted) const {
    if (kind != kind_of<T>) refuse(name, name_of(kind), name_of(kind_of<T>));
    has(name, wanted);
    return reinterpret_cast<T*>(data);
  }

  // The same, or null where None came.
  template <class T>
  T* maybe(const char* name, int64_t wanted) const {
    return *this ? of<T>(name, wanted) : nullptr;
  }

  // float32 or bfloat16.
  Dtype weights(const char* name, int64_t wanted) const {
    if (kind != Kind::f32 && kind != Kind::bf16) refuse(name, name_of(kind), "torch.float32 or torch.bfloat16");
    has(name, wanted);
    return kind == Kind::f32 ? Dtype::f32 : Dtype::bf16;
  }

  void has(const char* name, int64_t wanted) const {
    if (wanted < 0 || count < wanted)
      refuse(name, std::to_string(count) + " elements", "at least " + std::to_string(wanted));
  }

  [[noreturn]] static void refuse(const char* name, const std::string& got, const std::string& wanted) {
    throw pybind11::value_error(std::string(name) + ": got " + got + "; wanted " + wanted +
                                ". Call the kernels through monosem.ops, which brings tensors into order");
  }
};

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

}  // namespace ms

namespace pybind11::detail {

template <>
struct type_caster<ms::Array> {
  PYBIND11_TYPE_CASTER(ms::Array, const_name("torch.Tensor | None"));

  bool load(handle from, bool) {
    if (from.is_none()) return true;
    if (!hasattr(from, "data_ptr")) return false;
    if (!from.attr("is_cpu").cast<bool>()) ms::Array::refuse("tensor", str(from.attr("device")), "one on the CPU");
    if (!from.attr("is_contiguous")().cast<bool>()) ms::Array::refuse("tensor", "a strided one", "a contiguous one");
    value = {from.attr("data_ptr")().cast<uintptr_t>(), from.attr("numel")().cast<int64_t>(),
             ms::read_kind(from.attr("dtype"))};
    return true;
  }
};

}  // namespace pybind11::detail
