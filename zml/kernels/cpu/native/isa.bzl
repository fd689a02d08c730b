"""`for_each_isa`: a library whose sources are compiled once for each instruction set of the processor."""

load("@rules_cc//cc:cc_library.bzl", "cc_library")

_X86 = {
    "avx512_bf16": ["-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni", "-mprefer-vector-width=512"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
}

_ARM = {
    "neon_bf16": ["-march=armv8.2-a+dotprod+fp16+bf16+i8mm"],
    "neon_dot": ["-march=armv8.2-a+dotprod+fp16"],
    "neon": ["-march=armv8-a"],
}

_PORTABLE = {"portable": []}

def for_each_isa(name, srcs, hdrs, **kwargs):
    """A cc_library that exports, for each instruction set of the target's processor, what `srcs` define for ZML_ISA.

    Args:
      name: of the whole.
      srcs: compiled once a set, with -DZML_ISA=avx2 and so on.
      hdrs: the headers.
      **kwargs: of each cc_library.
    """
    for isas, cpu in [(_X86, "x86_64"), (_ARM, "aarch64"), (_PORTABLE, None)]:
        for isa, flags in isas.items():
            cc_library(
                name = name + "_" + isa,
                srcs = srcs,
                hdrs = hdrs,
                # Of no use unless it is optimized, so that it is in every mode.
                copts = flags + select({
                    ":asan": ["-O1"],
                    ":tsan": ["-O1"],
                    "//conditions:default": ["-O3"],
                }),
                local_defines = ["ZML_ISA=" + isa],
                target_compatible_with = ["@platforms//cpu:" + cpu] if cpu else [],
                **kwargs
            )
    cc_library(
        name = name,
        hdrs = hdrs,
        deps = [name + "_portable"] + select({
            "@platforms//cpu:x86_64": [name + "_" + isa for isa in _X86],
            "@platforms//cpu:aarch64": [name + "_" + isa for isa in _ARM],
            "//conditions:default": [],
        }),
    )
