"""`ruff_test` and `mypy_test`: the Python sources behind a list of targets, checked as pyproject.toml says."""

load("@rules_python//python:py_info.bzl", "PyInfo")
load("@rules_python//python:py_test.bzl", "py_test")

def _python_sources_impl(ctx):
    sources = depset(transitive = [target[PyInfo].transitive_sources for target in ctx.attr.targets]).to_list()
    ours = [file for file in sources if file.is_source and not file.owner.workspace_name]
    listing = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(listing, "".join(sorted([file.short_path + "\n" for file in ours])))
    return [DefaultInfo(files = depset([listing]), runfiles = ctx.runfiles(ours + [listing]))]

_python_sources = rule(
    implementation = _python_sources_impl,
    attrs = {"targets": attr.label_list(mandatory = True, providers = [PyInfo])},
    doc = "A list of the source files of this repository that the targets are made of, and those files as runfiles.",
)

def _lint_test(name, tool, targets, deps, **kwargs):
    _python_sources(
        name = name + "_sources",
        targets = targets,
        testonly = True,
        tags = ["manual"],
        visibility = ["//visibility:private"],
    )
    py_test(
        name = name,
        srcs = [Label("//tools/lint:main.py")],
        main = Label("//tools/lint:main.py"),
        args = [tool, "$(rootpath {}_sources)".format(name)],
        data = [name + "_sources", Label("//:pyproject.toml")],
        deps = deps,
        **kwargs
    )

def ruff_test(name, targets, **kwargs):
    """Lint and format, by ruff.

    Args:
      name: name of the target
      targets: Python targets; their dependencies in this repository are checked with them
      **kwargs: as for py_test
    """
    _lint_test(name, "ruff", targets, ["@pypi//ruff"], **kwargs)

def mypy_test(name, targets, **kwargs):
    """Types, by mypy.

    Args:
      name: name of the target
      targets: Python targets; their dependencies in this repository are checked with them
      **kwargs: as for py_test
    """
    _lint_test(name, "mypy", targets, targets + ["@pypi//mypy"], **kwargs)
