// The handler of linear layers.

#include <cstdint>
#include <string>

#include "zml/kernels/cpu/native/ffi.h"
#include "zml/kernels/cpu/native/linear.h"

namespace zml::cpu {
namespace {

namespace ffi = xla::ffi;

bool TypeOf(ffi::DataType from, Type* type) {
  switch (from) {
    case ffi::F32:
      return *type = Type::kF32, true;
    case ffi::BF16:
      return *type = Type::kBF16, true;
    case ffi::F16:
      return *type = Type::kF16, true;
    default:
      return false;
  }
}

std::string Describe(const ffi::AnyBuffer& buffer) {
  std::string dims;
  for (int64_t dim : buffer.dimensions()) dims += (dims.empty() ? "" : ", ") + std::to_string(dim);
  return "type " + std::to_string(static_cast<int>(buffer.element_type())) + " [" + dims + "]";
}

// Whether a weight's arrays are of the dims and types that formats.md says, for [n, k].
bool Fits(Format format, size_t n, size_t k, const ffi::AnyBuffer& values, const ffi::AnyBuffer* scales) {
  const auto dims = values.dimensions();
  if (format == Format::kDense) return dims.size() == 2 && dims[0] == int64_t(n) && dims[1] == int64_t(k);
  const int64_t blocks = int64_t(n + 15) / 16, groups = int64_t(k + 31) / 32;
  const bool int4 = format == Format::kInt4, channel = format == Format::kInt8Channel;
  return values.element_type() == (int4 ? ffi::U8 : ffi::S8) && dims.size() == 3 && dims[0] == blocks &&
         dims[1] == groups && dims[2] == (int4 ? 256 : 512) &&
         scales->element_type() == (channel ? ffi::F32 : ffi::BF16) &&
         int64_t(scales->element_count()) == blocks * (channel ? 1 : groups) * 16;
}

// Arguments: x [m, k], then of each weight the values and, if it is packed, the scales, then the biases of those weights whose
// bits `biases` has. Results: y [m, n] of each weight, or of the two of a gate.
ffi::Error LinearImpl(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::RemainingArgs args, ffi::RemainingRets results,
                      int32_t count, int32_t format_code, int32_t biases, int32_t activation) {
  if (count < 1 || count > int32_t(kMaxWeights) || format_code < 0 || format_code > int32_t(Format::kInt4) ||
      activation < 0 || activation > int32_t(Activation::kSigmoid)) {
    return Invalid("zml linear: there is no such kernel");
  }
  LinearTask task = {};
  task.count = static_cast<size_t>(count);
  task.activation = static_cast<Activation>(activation);
  const bool gated = task.activation != Activation::kNone;
  const Format format = static_cast<Format>(format_code);
  const size_t outputs = gated ? 1 : task.count;
  size_t wanted = task.count * (format == Format::kDense ? 1 : 2);
  for (size_t i = 0; i < task.count; ++i) wanted += biases >> i & 1;
  if (args.size() != wanted || results.size() != outputs || (gated && count != 2) || x.dimensions().size() != 2 ||
      !TypeOf(x.element_type(), &task.x_type)) {
    return Invalid("zml linear: x is " + Describe(x) + ", with " + std::to_string(args.size()) + " further arguments of " +
                   std::to_string(wanted) + " and " + std::to_string(results.size()) + " results");
  }
  task.m = static_cast<size_t>(x.dimensions()[0]);
  task.k = static_cast<size_t>(x.dimensions()[1]);
  task.x = x.untyped_data();

  size_t next = 0, ns[kMaxWeights];
  for (size_t i = 0; i < outputs; ++i) {
    const auto y = results.get<ffi::AnyBuffer>(i);
    if (!y.has_value()) return y.error();
    Type type;
    const auto dims = (*y)->dimensions();
    if (dims.size() != 2 || dims[0] != int64_t(task.m) || !TypeOf((*y)->element_type(), &type) ||
        (i != 0 && type != task.y_type)) {
      return Invalid("zml linear: a result is " + Describe(**y) + " of x " + Describe(x));
    }
    task.y_type = type;
    task.y[i] = (*y)->untyped_data();
    ns[i] = static_cast<size_t>(dims[1]);
  }
  for (size_t i = 0; i < task.count; ++i) {
    const size_t n = gated ? ns[0] : ns[i];
    const auto values = args.get<ffi::AnyBuffer>(next++);
    if (!values.has_value()) return values.error();
    ffi::ErrorOr<ffi::AnyBuffer> scales = values;
    if (format != Format::kDense) scales = args.get<ffi::AnyBuffer>(next++);
    if (!scales.has_value()) return scales.error();
    Type type = Type::kF32;
    if (!Fits(format, n, task.k, *values, &*scales) ||
        (format == Format::kDense && (!TypeOf(values->element_type(), &type) || (i != 0 && type != task.weights[0].type)))) {
      return Invalid("zml linear: a weight of " + std::to_string(n) + " rows and " + std::to_string(task.k) + " columns, format " +
                     std::to_string(format_code) + ", is " + Describe(*values) + " and " + Describe(*scales));
    }
    task.weights[i] = {format, type, values->untyped_data(), format == Format::kDense ? nullptr : scales->untyped_data(), n};
  }
  bool first = true;
  for (size_t i = 0; i < task.count; ++i) {
    if ((biases >> i & 1) == 0) continue;
    const auto bias = args.get<ffi::AnyBuffer>(next++);
    if (!bias.has_value()) return bias.error();
    Type type;
    if (!TypeOf(bias->element_type(), &type) || (!first && type != task.bias_type) ||
        bias->element_count() != task.weights[i].n) {
      return Invalid("zml linear: a bias of " + std::to_string(task.weights[i].n) + " rows is " + Describe(*bias));
    }
    first = false;
    task.bias_type = type;
    task.bias[i] = bias->untyped_data();
  }

  FfiPool pool(threads);
  Linear(*ActiveKernels(), pool, Workers(pool), task);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace zml::cpu

XLA_FFI_DEFINE_HANDLER_SYMBOL(zml_cpu_linear, zml::cpu::LinearImpl,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int32_t>("count")
                                  .Attr<int32_t>("format")
                                  .Attr<int32_t>("biases")
                                  .Attr<int32_t>("activation"));
