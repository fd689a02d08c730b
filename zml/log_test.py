import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from zml import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger("zml")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before


def test_lines_have_the_level_and_the_part(capsys: pytest.CaptureFixture[str]) -> None:
    log.to_stderr()
    log.get("llm").info("Loaded %s", "x")
    log.get("io").warning("careful")
    log.get("io").debug("unseen")
    captured = capsys.readouterr()
    assert captured.err == "info(llm): Loaded x\nwarning(io): careful\n"
    assert captured.out == ""


def test_asking_twice_does_not_say_twice(capsys: pytest.CaptureFixture[str]) -> None:
    log.to_stderr()
    log.to_stderr(logging.DEBUG)
    log.get("compile").debug("once")
    assert capsys.readouterr().err == "debug(compile): once\n"


def test_a_library_user_hears_nothing_below_warnings() -> None:
    code = "from zml import log; log.get('x').info('no'); log.get('x').warning('yes')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "yes\n")


def test_importing_zml_imports_no_backend() -> None:
    code = "import sys, zml, zml.errors, zml.log, zml.units; print({'jax', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
