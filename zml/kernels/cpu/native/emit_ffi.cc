// The handler that tells the host a token while the program goes on.

#include <cerrno>
#include <cstdint>

#include <sys/socket.h>

#include "zml/kernels/cpu/native/ffi.h"

namespace ffi = xla::ffi;

namespace zml::cpu {
namespace {

#ifdef MSG_NOSIGNAL
constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
#else
constexpr int kFlags = MSG_DONTWAIT;  // macOS: Python ignores SIGPIPE
#endif

// Sends the value through a socket. Whether the other end is there to take it: if not, nobody wants more.
ffi::Error Run(ffi::Buffer<ffi::S32> socket, ffi::Buffer<ffi::S32> value, ffi::ResultBuffer<ffi::PRED> taken) {
  if (socket.element_count() != 1 || value.element_count() != 1 || taken->element_count() != 1) {
    return Invalid("emit: expected one socket and one value");
  }
  const int32_t sent = *value.typed_data();
  ssize_t count;
  do {
    count = send(*socket.typed_data(), &sent, sizeof(sent), kFlags);
  } while (count < 0 && errno == EINTR);
  *taken->typed_data() = count == sizeof(sent);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace zml::cpu

XLA_FFI_DEFINE_HANDLER_SYMBOL(zml_cpu_emit, zml::cpu::Run,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::PRED>>());
