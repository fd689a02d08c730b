"""`pytest_test`: a py_test that runs pytest."""

load("@rules_python//python:py_test.bzl", "py_test")

def pytest_test(name, srcs, deps = [], data = [], args = [], **kwargs):
    """Runs the pytest functions in `srcs`; a warning is an error.

    `--test_filter=EXPRESSION` is pytest's `-k`, `--test_arg=ARGUMENT` goes to pytest.

    Args:
      name: name of the target
      srcs: test files, and nothing else: pytest collects each one
      deps: py_library targets
      data: files for the tests to read
      args: arguments for pytest
      **kwargs: as for py_test
    """
    py_test(
        name = name,
        srcs = srcs + [Label("//tools/pytest:main.py")],
        main = Label("//tools/pytest:main.py"),
        args = ["$(rootpath {})".format(src) for src in srcs] + args,
        data = data + [Label("//:pyproject.toml")],
        deps = deps + ["@pypi//pytest"],
        **kwargs
    )
