"""The program that a py_binary starts as."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def program() -> Path:
    """A py_binary of show.py, among this test's runfiles."""
    return Path("third_party/python/show").absolute()


def run(program: str | Path, *arguments: str, **options: Any) -> dict[str, Any]:
    environment = {"PATH": os.environ["PATH"], **options.pop("env", {})}
    output = subprocess.check_output([program, *arguments], env=environment, text=True, **options)
    shown: dict[str, Any] = json.loads(output)
    return shown


def test_arguments_arrive_as_given(program: Path) -> None:
    assert run(program, "a b", "", "*", "c:d")["argv"] == ["a b", "", "*", "c:d"]


def test_runs_from_any_folder_by_any_path(program: Path, tmp_path: Path) -> None:
    runfiles = os.environ["RUNFILES_DIR"]
    assert run(program, cwd=tmp_path)["runfiles"] == runfiles
    assert run("./show", cwd=program.parent)["runfiles"] == runfiles
    assert run("python/show", cwd=program.parent.parent)["runfiles"] == runfiles
    assert (
        run("show", env={"PATH": f"{program.parent}:{os.environ['PATH']}"})["runfiles"] == runfiles
    )


def test_runs_through_links(program: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(program)
    (tmp_path / "two").symlink_to("one")
    assert run(tmp_path / "two")["runfiles"] == os.environ["RUNFILES_DIR"]


def test_its_own_runfiles_come_first(program: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a folder/show"
    copy.parent.mkdir()
    shutil.copy(program, copy)
    Path(f"{copy}.runfiles").symlink_to(os.environ["RUNFILES_DIR"])
    shown = run(copy, env={"RUNFILES_DIR": "/nowhere"})
    assert shown["runfiles"] == f"{copy}.runfiles"
    assert shown["file"] == f"{copy}.runfiles/_main/third_party/python/show.py"


def test_runfiles_of_the_caller_are_used(program: Path, tmp_path: Path) -> None:
    copy = shutil.copy(program, tmp_path / "show")
    runfiles = os.environ["RUNFILES_DIR"]
    assert run(copy, env={"RUNFILES_DIR": runfiles})["runfiles"] == runfiles


def test_modules_come_from_the_runfiles_alone(program: Path) -> None:
    shown = run(program, env={"PYTHONPATH": "/planted", "PYTHONHOME": "/planted"})
    assert all(Path(entry).is_relative_to(shown["runfiles"]) for entry in shown["path"])


def test_missing_runfiles_are_named(program: Path, tmp_path: Path) -> None:
    copy = shutil.copy(program, tmp_path / "show")
    result = subprocess.run(
        [copy], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "no runfiles: expected _main/third_party/python/show.py" in result.stderr
