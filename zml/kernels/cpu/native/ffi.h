// What the handlers share: XLA's thread pool as ours, and the bytes of a buffer of any type.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "xla/ffi/api/ffi.h"
#include "zml/kernels/cpu/native/isa.h"
#include "zml/kernels/cpu/native/kernels.h"
#include "zml/kernels/cpu/native/parallel.h"

namespace zml::cpu {

// XLA's intra-op pool.
class FfiPool final : public Pool {
 public:
  explicit FfiPool(xla::ffi::ThreadPool pool) : pool_(pool) {}
  size_t threads() const override { return static_cast<size_t>(pool_.num_threads()); }
  void Schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  xla::ffi::ThreadPool pool_;
};

// The element type of a buffer; false if it is none of ours.
inline bool ReadType(xla::ffi::DataType type, Type& to) {
  switch (type) {
    case xla::ffi::DataType::F32: to = Type::kF32; return true;
    case xla::ffi::DataType::BF16: to = Type::kBF16; return true;
    case xla::ffi::DataType::F16: to = Type::kF16; return true;
    default: return false;
  }
}

inline xla::ffi::Error Invalid(const std::string& what) { return xla::ffi::Error::InvalidArgument(what); }

}  // namespace zml::cpu
