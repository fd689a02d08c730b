"""Checks of the Python sources of this repository, as pyproject.toml says."""

load("@rules_python//python:py_info.bzl", "PyInfo")
load("@rules_python//python:py_test.bzl", "py_test")

def _python_sources_impl(ctx):
    sources = depset(transitive = [target[PyInfo].transitive_sources for target in ctx.attr.targets]).to_list()
    ours = [file for file in sources if file.is_source and not file.owner.workspace_name]
    listing = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(listing, "".join(sorted([file.short_path + "\n" for file in ours])))
    return [DefaultInfo(files = depset([listing]), runfiles = ctx.runfiles(ours + [listing]))]

python_sources = rule(
    implementation = _python_sources_impl,
    attrs = {
        "targets": attr.label_list(
            mandatory = True,
            providers = [PyInfo],
            doc = "Python targets; what they depend on in this repository is taken with them",
        ),
    },
    doc = "A list of the source files behind the targets, and those files as runfiles.",
)

def _lint_test(name, tool, sources, deps, **kwargs):
    py_test(
        name = name,
        srcs = [Label("//tools/lint:main.py")],
        main = Label("//tools/lint:main.py"),
        args = [tool, "$(rootpath {})".format(sources)],
        data = [sources, Label("//:pyproject.toml")],
        deps = deps,
        **kwargs
    )

def ruff_test(name, sources, **kwargs):
    """Lint and format, by ruff.

    Args:
      name: name of the target
      sources: a python_sources
      **kwargs: as for py_test
    """
    _lint_test(name, "ruff", sources, ["@pypi//ruff"], **kwargs)

def mypy_test(name, sources, deps, **kwargs):
    """Types, by mypy.

    Args:
      name: name of the target
      sources: a python_sources
      deps: what the sources import
      **kwargs: as for py_test
    """
    _lint_test(name, "mypy", sources, deps + ["@pypi//mypy"], **kwargs)
