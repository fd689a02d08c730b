// The handler of linear layers.

#include "zml/kernels/cpu/native/ffi.h"
#include "zml/kernels/cpu/native/linear.h"

namespace ffi = xla::ffi;

namespace zml::cpu {
namespace {

constexpr size_t kBlock = 16, kGroup = 32;

// Operands: x [m, k], then of each weight its values, its scales if it is packed, and its bias if there is one.
ffi::Error Run(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets results, int64_t count,
               int64_t format, bool biased, int64_t activation, int64_t columns) {
  LinearTask task{};
  const bool packed = format != static_cast<int64_t>(Format::kDense);
  const size_t weights = static_cast<size_t>(count), outputs = activation == 0 ? weights : 1;
  if (count < 1 || weights > kMaxWeights || args.size() != 1 + weights * (1 + packed + biased) ||
      results.size() != outputs || (activation != 0 && weights != 2)) {
    return Invalid("linear: the operands do not fit what they are said to be");
  }
  auto x = args.get<ffi::AnyBuffer>(0);
  if (x.has_error()) return x.error();
  if (x->dimensions().size() != 2 || x->dimensions()[1] != columns || !ReadType(x->element_type(), task.x_type) ||
      task.x_type == Type::kF16) {
    return Invalid("linear: x is not a matrix of f32 or bf16 with the weight's columns");
  }
  task.m = static_cast<size_t>(x->dimensions()[0]);
  task.k = static_cast<size_t>(columns);
  task.x = x->untyped_data();
  task.count = weights;
  task.activation = static_cast<Activation>(activation);
  for (size_t i = 0, at = 1; i < weights; ++i) {
    Weight& weight = task.weights[i];
    auto values = args.get<ffi::AnyBuffer>(at++);
    auto result = results.get<ffi::AnyBuffer>(outputs == 1 ? 0 : i);
    if (values.has_error()) return values.error();
    if (result.has_error()) return result.error();
    const auto dims = (*result)->dimensions();
    if (dims.size() != 2 || dims[0] != x->dimensions()[0]) return Invalid("linear: a result is not a matrix of x's rows");
    weight.format = static_cast<Format>(format);
    weight.values = values->untyped_data();
    weight.n = static_cast<size_t>(dims[1]);
    if (packed) {
      auto scales = args.get<ffi::AnyBuffer>(at++);
      if (scales.has_error()) return scales.error();
      weight.scales = scales->untyped_data();
      const size_t blocks = (weight.n + kBlock - 1) / kBlock, groups = (task.k + kGroup - 1) / kGroup;
      const size_t bytes = blocks * groups * kBlock * kGroup / (weight.format == Format::kInt4 ? 2 : 1);
      const bool by_row = weight.format == Format::kInt8Channel;
      const size_t scale_bytes = blocks * kBlock * (by_row ? sizeof(float) : groups * sizeof(uint16_t));
      if (values->size_bytes() != bytes || scales->size_bytes() != scale_bytes) {
        return Invalid("linear: a packed weight has not the bytes of its rows and columns");
      }
    } else if (!ReadType(values->element_type(), weight.type) || weight.type != (i == 0 ? weight.type : task.weights[0].type) ||
               values->element_count() != weight.n * task.k) {
      return Invalid("linear: a weight is not a matrix of its result's and x's columns");
    }
    if (biased) {
      auto bias = args.get<ffi::AnyBuffer>(at++);
      if (bias.has_error()) return bias.error();
      if (bias->element_count() != weight.n || !ReadType(bias->element_type(), task.bias_type)) {
        return Invalid("linear: a bias is not a vector of its result's columns");
      }
      task.bias[i] = bias->untyped_data();
    }
    if (i < outputs) {
      if (!ReadType((*result)->element_type(), task.y_type)) return Invalid("linear: the result's type");
      task.y[i] = (*result)->untyped_data();
    }
  }
  const Kernels* kernels = ActiveKernels();
  if (kernels == nullptr) return Invalid(IsaError());
  FfiPool pool(threads);
  Linear(*kernels, pool, Workers(pool), task);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace zml::cpu

XLA_FFI_DEFINE_HANDLER_SYMBOL(zml_cpu_linear, zml::cpu::Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("count")
                                  .Attr<int64_t>("format")
                                  .Attr<bool>("biased")
                                  .Attr<int64_t>("activation")
                                  .Attr<int64_t>("columns"));
