// An XLA custom call, scale * x + y: small, yet it needs XLA's headers, libc++, exceptions and libm.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

std::vector<float> Axpy(float scale, const float* x, const float* y, size_t size) {
  if (!std::isfinite(scale)) throw std::invalid_argument("scale is " + std::to_string(scale));
  std::vector<float> out(size);
  for (size_t i = 0; i < size; ++i) out[i] = std::fma(scale, x[i], y[i]);
  return out;
}

ffi::Error AxpyImpl(float scale, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> y,
                    ffi::ResultBuffer<ffi::F32> out) {
  if (x.element_count() != y.element_count()) return ffi::Error::InvalidArgument("x and y differ in size");
  try {
    const std::vector<float> result = Axpy(scale, x.typed_data(), y.typed_data(), x.element_count());
    std::copy(result.begin(), result.end(), out->typed_data());
  } catch (const std::invalid_argument& error) {
    return ffi::Error::InvalidArgument(error.what());
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AxpyHandler, AxpyImpl,
                              ffi::Ffi::Bind()
                                  .Attr<float>("scale")
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
