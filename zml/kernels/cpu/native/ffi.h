// What the handlers share: XLA's thread pool as ours, and the bytes of a buffer of any type.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "xla/ffi/api/ffi.h"
#include "zml/kernels/cpu/native/isa.h"
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

inline xla::ffi::Error Invalid(const std::string& what) { return xla::ffi::Error::InvalidArgument(what); }

}  // namespace zml::cpu
