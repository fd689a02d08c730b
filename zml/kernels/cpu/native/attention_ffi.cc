// The handler of attention.

#include <string_view>

#include "zml/kernels/cpu/native/attention.h"
#include "zml/kernels/cpu/native/ffi.h"

namespace ffi = xla::ffi;

namespace zml::cpu {
namespace {

struct Operand {
  int64_t batch = 1, rows = 0, heads = 0, dim = 0;
  AttentionStrides strides{};
};

// The axes by letter: b (sequences), r (queries or keys), h (heads), d (a head's elements, the last).
bool Read(std::string_view axes, ffi::AnyBuffer::Dimensions dims, Operand& to) {
  if (axes.size() != dims.size() || axes.empty() || axes.back() != 'd') return false;
  int64_t stride = 1;
  for (size_t i = axes.size(); i-- > 0; stride *= dims[i]) {
    switch (axes[i]) {
      case 'b': to.batch = dims[i], to.strides.batch = stride; break;
      case 'r': to.rows = dims[i], to.strides.row = stride; break;
      case 'h': to.heads = dims[i], to.strides.head = stride; break;
      case 'd': to.dim = dims[i]; break;
      default: return false;
    }
  }
  return true;
}

ffi::Error Run(ffi::ThreadPool threads, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v, ffi::Buffer<ffi::S32> start,
               ffi::Buffer<ffi::S32> lengths, ffi::Result<ffi::AnyBuffer> out, std::string_view q_axes,
               std::string_view k_axes, bool causal, int64_t window, float softcap, float scale) {
  AttentionTask task{};
  Operand of_q, of_k, of_v, of_out;
  if (!Read(q_axes, q.dimensions(), of_q) || !Read(k_axes, k.dimensions(), of_k) || !Read(k_axes, v.dimensions(), of_v) ||
      !Read(q_axes, out->dimensions(), of_out)) {
    return Invalid("attention: the axes do not fit the operands");
  }
  if (!ReadType(q.element_type(), task.type) || !ReadType(k.element_type(), task.cache) || v.element_type() != k.element_type() ||
      out->element_type() != q.element_type()) {
    return Invalid("attention: the element types do not fit");
  }
  // Keys without an axis of sequences are shared by all: a stride of 0.
  const size_t batch = static_cast<size_t>(of_q.batch);
  if (of_k.heads == 0 || of_q.heads % of_k.heads != 0 || of_v.heads != of_k.heads || of_v.rows != of_k.rows ||
      of_k.dim != of_q.dim || of_out.dim != of_v.dim || of_out.rows != of_q.rows || of_out.heads != of_q.heads ||
      of_out.batch != of_q.batch || (k_axes.find('b') != std::string_view::npos && of_k.batch != of_q.batch) ||
      start.element_count() != batch || lengths.element_count() != batch || window < 0) {
    return Invalid("attention: the operands do not fit each other");
  }
  task.q = static_cast<const char*>(q.untyped_data());
  task.k = static_cast<const char*>(k.untyped_data());
  task.v = static_cast<const char*>(v.untyped_data());
  task.out = static_cast<char*>(out->untyped_data());
  task.batch = of_q.batch, task.queries = of_q.rows, task.heads = of_q.heads, task.kv_heads = of_k.heads;
  task.keys = of_k.rows, task.dim = of_q.dim, task.value_dim = of_v.dim;
  task.q_strides = of_q.strides, task.k_strides = of_k.strides;
  task.v_strides = of_v.strides, task.out_strides = of_out.strides;
  task.start = start.typed_data(), task.lengths = lengths.typed_data();
  task.causal = causal, task.window = window, task.softcap = softcap, task.scale = scale;
  const Kernels* kernels = ActiveKernels();
  if (kernels == nullptr) return Invalid(IsaError());
  FfiPool pool(threads);
  RunAttention(*kernels->attention, task, pool);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace zml::cpu

XLA_FFI_DEFINE_HANDLER_SYMBOL(zml_cpu_attention, zml::cpu::Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<std::string_view>("q_axes")
                                  .Attr<std::string_view>("k_axes")
                                  .Attr<bool>("causal")
                                  .Attr<int64_t>("window")
                                  .Attr<float>("softcap")
                                  .Attr<float>("scale"));
