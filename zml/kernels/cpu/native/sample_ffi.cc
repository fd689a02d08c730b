// The handler of sampling.

#include "zml/kernels/cpu/native/ffi.h"
#include "zml/kernels/cpu/native/sample.h"

namespace ffi = xla::ffi;

namespace zml::cpu {
namespace {

using F32s = ffi::Buffer<ffi::F32>;
using S32s = ffi::Buffer<ffi::S32>;

ffi::Error Run(ffi::ThreadPool threads, F32s logits, ffi::Buffer<ffi::PRED> prompt, S32s generated, F32s temperature,
               S32s top_k, F32s top_p, F32s min_p, F32s repetition, F32s presence, F32s frequency,
               ffi::Buffer<ffi::U32> seed, S32s position, ffi::ResultBuffer<ffi::S32> tokens) {
  const auto dims = logits.dimensions();
  if (dims.size() != 2 || dims[1] <= 0 || dims[1] > INT32_MAX) return Invalid("sample: expected logits [rows, vocabulary]");
  const size_t rows = static_cast<size_t>(dims[0]);
  for (const F32s* x : {&temperature, &top_p, &min_p, &repetition, &presence, &frequency}) {
    if (x->element_count() != rows) return Invalid("sample: expected a parameter for each row");
  }
  if (top_k.element_count() != rows || seed.element_count() != rows || position.element_count() != rows ||
      tokens->element_count() != rows) {
    return Invalid("sample: expected a parameter for each row");
  }
  // Without counts they are empty.
  const bool counts = prompt.element_count() != 0;
  if (prompt.element_count() != generated.element_count() ||
      (counts && prompt.element_count() != logits.element_count())) {
    return Invalid("sample: the counts do not fit the logits");
  }
  SampleTask task{};
  task.rows = dims[0], task.count = dims[1];
  task.logits = logits.typed_data();
  task.prompt = counts ? prompt.typed_data() : nullptr;
  task.generated = counts ? generated.typed_data() : nullptr;
  task.temperature = temperature.typed_data(), task.top_p = top_p.typed_data(), task.min_p = min_p.typed_data();
  task.repetition = repetition.typed_data(), task.presence = presence.typed_data();
  task.frequency = frequency.typed_data(), task.top_k = top_k.typed_data(), task.seed = seed.typed_data();
  task.position = position.typed_data(), task.tokens = tokens->typed_data();
  const Kernels* kernels = ActiveKernels();
  if (kernels == nullptr) return Invalid(IsaError());
  FfiPool pool(threads);
  RunSample(*kernels->sample, task, pool);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace zml::cpu

XLA_FFI_DEFINE_HANDLER_SYMBOL(zml_cpu_sample, zml::cpu::Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::PRED>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());
