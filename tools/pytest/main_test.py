"""The runner that every pytest_test has."""

import os
import sys
import warnings
from pathlib import Path

import pytest

from tools.pytest.main import arguments


def test_bazels_environment_becomes_options() -> None:
    options = arguments(
        {"TEST_TMPDIR": "/t", "XML_OUTPUT_FILE": "/t/test.xml", "TESTBRIDGE_TEST_ONLY": "rope"}
    )
    assert "--basetemp=/t/pytest" in options
    assert "--junitxml=/t/test.xml" in options
    assert options[-2:] == ["-k", "rope"]


def test_without_bazel_nothing_is_redirected() -> None:
    assert not [o for o in arguments({}) if o.startswith(("--basetemp", "--junitxml", "-k"))]


def test_a_warning_is_an_error() -> None:
    with pytest.raises(DeprecationWarning, match="old"):
        warnings.warn("old", DeprecationWarning, stacklevel=1)


def test_home_is_the_tests_own(tmp_path: Path) -> None:
    assert Path.home() == Path(os.environ["TEST_TMPDIR"])
    assert tmp_path.is_relative_to(Path.home())


def test_modules_have_the_name_other_processes_import_them_by() -> None:
    assert __name__ == "tools.pytest.main_test"
    assert sys.modules[__name__].__file__ == __file__
