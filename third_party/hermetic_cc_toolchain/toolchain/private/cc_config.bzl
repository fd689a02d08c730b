"""How the tools of one target are called: features and flags.

zig's bundled clang and lld are called as themselves (`zig clang`, `zig ld.lld`), with every header and
library named on the command line. They keep no cache, so an action depends on its inputs alone.
"""

load("@rules_cc//cc:action_names.bzl", "ACTION_NAMES")
load(
    "@rules_cc//cc:cc_toolchain_config_lib.bzl",
    "feature",
    "flag_group",
    "flag_set",
    "tool_path",
    "variable_with_value",
    "with_feature_set",
)
load("@rules_cc//cc/common:cc_common.bzl", "cc_common")
load("@rules_cc//cc/toolchains:cc_toolchain_config_info.bzl", "CcToolchainConfigInfo")
load(":targets.bzl", "CXX_INCLUDES", "TARGETS")

_C = [ACTION_NAMES.c_compile, ACTION_NAMES.assemble, ACTION_NAMES.preprocess_assemble]
_CXX = [
    ACTION_NAMES.cpp_compile,
    ACTION_NAMES.cpp_header_parsing,
    ACTION_NAMES.cpp_module_compile,
    ACTION_NAMES.cpp_module_codegen,
    ACTION_NAMES.linkstamp_compile,
    ACTION_NAMES.clif_match,
]
_COMPILE = _C + _CXX
_LINK_EXECUTABLE = [ACTION_NAMES.cpp_link_executable]
_LINK_SHARED = [
    ACTION_NAMES.cpp_link_dynamic_library,
    ACTION_NAMES.cpp_link_nodeps_dynamic_library,
]
_LINK = _LINK_EXECUTABLE + _LINK_SHARED

# Bazel's own names, which are part of the names of output folders.
_BAZEL_CPU = {
    target.zig_name: "darwin_arm64" if target.os == "macos" else {"x86_64": "k8"}.get(target.cpu, target.cpu)
    for target in TARGETS
}

# Feature, as Bazel's own toolchains name it -> clang's name of the sanitizer.
SANITIZERS = {
    "asan": "address",
    "tsan": "thread",
    "ubsan": "undefined",
}

def _flags(actions, flags, mode = None):
    """A flag set for some actions, in one compilation mode or in all."""
    return flag_set(
        actions = actions,
        flag_groups = [flag_group(flags = flags)] if flags else [],
        with_features = [with_feature_set(features = [mode])] if mode else [],
    )

def _system_includes(root, includes):
    return [flag for include in includes for flag in ("-isystem", "{}/lib/{}".format(root, include))]

def _hardening(mode, semantic):
    """libc++'s checks; they do not change its binary interface, so that modes can be mixed."""
    return [
        "-D_LIBCPP_HARDENING_MODE=_LIBCPP_HARDENING_MODE_" + mode,
        "-D_LIBCPP_ASSERTION_SEMANTIC_DEFAULT=_LIBCPP_ASSERTION_SEMANTIC_" + semantic,
    ]

def _compile_flags(target, root):
    return [
        _flags(_COMPILE, [
            "--target=" + target.triple,
            # Nothing of the host: neither its headers nor the place where the compiler lies.
            "-no-canonical-prefixes",
            "--no-default-config",
            "-nostdinc",
            # Shared libraries take the same objects as executables do.
            "-fPIC",
            "-fstack-protector",
            "-fno-omit-frame-pointer",
            "-fcolor-diagnostics",
            "-Wall",
        ] + ["-D" + define for define in target.defines]),
        _flags(_COMPILE, ["-g"], "dbg"),
        _flags(_COMPILE, ["-O2", "-DNDEBUG", "-ffunction-sections", "-fdata-sections"], "opt"),
        _flags(_CXX, ["-nostdinc++", "-std=c++17"] + ["-D" + define for define in target.cxx_defines]),
        _flags(_CXX, _hardening("EXTENSIVE", "ENFORCE"), "dbg"),
        _flags(_CXX, _hardening("NONE", "IGNORE"), "fastbuild"),
        _flags(_CXX, _hardening("NONE", "IGNORE"), "opt"),
    ]

def _reproducible_flags():
    return _flags(_COMPILE, [
        "-ffile-compilation-dir=.",
        "-Wno-builtin-macro-redefined",
        "-D__DATE__=\"redacted\"",
        "-D__TIME__=\"redacted\"",
        "-D__TIMESTAMP__=\"redacted\"",
    ])

def _elf_link_flags(target, root, runtime):
    return [
        _flags(_LINK, [
            "--target=" + target.triple,
            "-no-canonical-prefixes",
            "--no-default-config",
            "--ld-path={}/tools/ld.lld".format(root),
            # An empty system: the driver adds no folder of the host's to the search path.
            "--sysroot={}/tools".format(root),
            "-nostdlib",
            "-L" + runtime,
            "-Wl,--build-id=none",
            "-Wl,-z,relro,-z,now",
        ]),
        _flags(_LINK, ["-Wl,--gc-sections"], "opt"),
        _flags(_LINK_EXECUTABLE, ["-pie", runtime + "/Scrt1.o"]),
        _flags(_LINK, [
            # A library that is loaded into another program must not offer it this C++ runtime.
            "-Wl,--exclude-libs=libc++.a:libc++abi.a:libunwind.a:libcompiler_rt.a",
            "-lc++",
            "-lc++abi",
            "-lunwind",
            "-Wl,--as-needed",
            "-lm",
            "-lpthread",
            "-ldl",
            "-lrt",
            "-lc",
            "-lld",
            "-lc_nonshared",
            "-lcompiler_rt",
        ]),
    ]

def _macho_link_flags(target, root, runtime):
    return [
        _flags(_LINK, [
            "-target",
            target.zig_target,
            "-nostdlib",
            # Else zig writes, for a debugger, where each object file lies: in a sandbox that is gone by then.
            "-Wl,-S",
        ]),
        _flags(_LINK, ["-Wl,-dead_strip"], "opt"),
        # By path: at -lc++ zig would build its own.
        _flags(_LINK, ["{}/lib{}.a".format(runtime, name) for name in ("c++", "c++abi", "compiler_rt")] + [
            "-L{}/lib/libc/darwin".format(root),
            "-lSystem",
        ]),
    ]

def _sanitizer_features(files):
    """One feature a sanitizer; none without run-time libraries, of which clang wants the folder above lib/linux/."""
    folders = {file.dirname.removesuffix("/lib/linux"): None for file in files if file.basename.startswith("libclang_rt.")}
    if not folders:
        return []
    return [
        feature(name = name, flag_sets = [
            # Before the flags of the compilation mode, of which -O2 has the last word. Lines are for the reports.
            _flags(_COMPILE, ["-fsanitize=" + sanitizer, "-fno-sanitize-recover=" + sanitizer, "-O1", "-gline-tables-only"]),
            _flags(_LINK, [
                "-fsanitize=" + sanitizer,
                # operator new and delete among them, although the driver is called as that of C.
                "-fsanitize-link-c++-runtime",
                "-resource-dir=" + folders.keys()[0],
            ]),
        ])
        for name, sanitizer in SANITIZERS.items()
    ]

def _library_type(value):
    return variable_with_value(name = "libraries_to_link.type", value = value)

def _archive_feature():
    # Bazel's own for macOS is libtool's command line; this is llvm-ar's for every target.
    archive = [ACTION_NAMES.cpp_link_static_library]
    return feature(
        name = "archiver_flags",
        flag_sets = [
            flag_set(actions = archive, flag_groups = [
                flag_group(flags = ["rcsD", "%{output_execpath}"], expand_if_available = "output_execpath"),
            ]),
            flag_set(actions = archive, flag_groups = [
                flag_group(
                    iterate_over = "libraries_to_link",
                    expand_if_available = "libraries_to_link",
                    flag_groups = [
                        flag_group(
                            flags = ["%{libraries_to_link.name}"],
                            expand_if_equal = _library_type("object_file"),
                        ),
                        flag_group(
                            flags = ["%{libraries_to_link.object_files}"],
                            iterate_over = "libraries_to_link.object_files",
                            expand_if_equal = _library_type("object_file_group"),
                        ),
                    ],
                ),
            ]),
        ],
    )

def _zig_cc_config_impl(ctx):
    target = [target for target in TARGETS if target.zig_name == ctx.attr.target][0]
    root = ctx.label.workspace_root
    runtime = ctx.file.runtime.path
    macos = target.os == "macos"
    compiler = "tools/clang-macho" if macos else "tools/clang"
    includes = CXX_INCLUDES + target.includes
    return cc_common.create_cc_toolchain_config_info(
        ctx = ctx,
        toolchain_identifier = "zig-" + target.zig_name,
        compiler = "clang",
        target_cpu = _BAZEL_CPU[target.zig_name],
        target_libc = "macosx" if macos else "glibc_" + target.libc,
        target_system_name = target.triple,
        cxx_builtin_include_directories = ["{}/lib/{}".format(root, include) for include in includes],
        tool_paths = [
            tool_path(name = name, path = path)
            for name, path in {
                "ar": "tools/ar",
                "cpp": compiler,
                "dwp": "tools/unsupported",
                "gcc": compiler,
                "gcov": "tools/unsupported",
                "ld": "tools/ld.lld",
                "nm": "tools/unsupported",
                "objcopy": "tools/unsupported",
                "objdump": "tools/unsupported",
                "strip": "tools/unsupported",
            }.items()
        ],
        features = [feature(name = mode) for mode in ("dbg", "fastbuild", "opt")] + _sanitizer_features(ctx.files.sanitizers) + [
            _archive_feature(),
            feature(name = "zig_compile", enabled = True, flag_sets = _compile_flags(target, root)),
            feature(name = "zig_link", enabled = True, flag_sets =
                _macho_link_flags(target, root, runtime) if macos else _elf_link_flags(target, root, runtime)),
            # Behind the include paths that the rules give, so that these are searched first.
            feature(name = "zig_includes", enabled = True, flag_sets = [
                _flags(_CXX, _system_includes(root, CXX_INCLUDES)),
                _flags(_COMPILE, _system_includes(root, target.includes)),
            ]),
            feature(name = "unfiltered_compile_flags", enabled = True, flag_sets = [_reproducible_flags()]),
        ],
    )

zig_cc_config = rule(
    doc = "The configuration of the cc_toolchain for one target.",
    implementation = _zig_cc_config_impl,
    attrs = {
        "target": attr.string(mandatory = True, doc = "The target's zig name."),
        # Built for the execution platform's configuration, which is one for all compilation modes of the target.
        "runtime": attr.label(mandatory = True, allow_single_file = True, cfg = "exec"),
        "sanitizers": attr.label(doc = "Files of compiler-rt, or an empty filegroup."),
    },
    provides = [CcToolchainConfigInfo],
)
