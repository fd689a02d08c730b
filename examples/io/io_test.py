"""The io example's commands, as its user types them."""

from pathlib import Path

import numpy as np
import pytest

from examples.io.main import main
from zml.testing import files, fresh


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"hello\n")
    (root / "b c.bin").write_bytes(bytes(3000))
    (root / "sub" / "deep" / "d.txt").write_bytes(b"deep")
    return root


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = main(["io", *map(str, arguments)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def _forget(capsys: pytest.CaptureFixture[str]) -> None:
    """What was printed so far: how to make the test's data again."""
    capsys.readouterr()


def _fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    assert main(["io", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error(io): ") and captured.err.count("\n") == 1
    return captured.err


def test_ls_shows_sizes_and_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _run(capsys, "ls", folder).splitlines()
    assert [line.split(maxsplit=3)[-1] for line in lines[:2]] == ["a.txt", "b c.bin"]
    assert lines[0].split()[0] == "6B" and lines[1].split()[0] == "2.93KiB"
    assert lines[2].endswith(" sub/")
    assert _run(capsys, "ls", f"{folder}/*.txt").endswith(" a.txt\n")
    assert _run(capsys, "ls", f"file://{folder}/**/d.txt").endswith(" d.txt\n")


def test_tree_draws_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(capsys, "tree", folder).splitlines() == [
        str(folder),
        "├── a.txt  6B",
        "├── b c.bin  2.93KiB",
        "└── sub/",
        "    └── deep/",
        "        └── d.txt  4B",
        "3 files, 2.94KiB",
    ]


def test_cat_gives_the_bytes(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["io", "cat", str(folder / "b c.bin")]) == 0
    assert capfdbinary.readouterr().out == bytes(3000)


def test_stat_tells_what_is_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _run(capsys, "stat", folder / "a.txt")
    assert "size      6 bytes (6B)\n" in out and "etag      none" not in out
    assert "folder    yes" in _run(capsys, "stat", folder)


def test_cp_copies_files_folders_and_patterns(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    _run(capsys, "cp", folder / "sub", f"{folder}/*.txt", f"{target}/")
    found = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert found == ["a.txt", "sub/deep/d.txt"]
    assert (target / "sub/deep/d.txt").read_bytes() == b"deep"
    _run(capsys, "cp", folder / "b c.bin", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == bytes(3000)


def test_cp_never_replaces_unasked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x"
    target.write_text("mine")
    assert "--overwrite" in _fails(capsys, 2, "cp", folder / "a.txt", target)
    assert target.read_text() == "mine"
    _run(capsys, "cp", "--overwrite", folder / "a.txt", target)
    assert target.read_text() == "hello\n"
    assert "give a folder" in _fails(capsys, 2, "cp", f"{folder}/*.*", tmp_path / "new")
    assert "local paths only" in _fails(capsys, 2, "cp", folder / "a.txt", "s3://bucket/x")
    (folder / "sub" / "a.txt").write_bytes(b"another")
    for sources in ([f"{folder}/**/a.txt"], [folder / "a.txt", folder / "sub" / "a.txt"]):
        said = _fails(capsys, 2, "cp", *sources, f"{tmp_path}/flat/")
        assert f"{folder}/sub/a.txt" in said and not (tmp_path / "flat").exists()


def test_cp_of_quoted_urls_gives_the_names_that_people_write(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "100%20 ü.txt").write_bytes(b"x")
    _run(capsys, "cp", f"file://{folder}", f"{tmp_path}/target/")
    found = {p.name for p in (tmp_path / "target/root").iterdir()}
    assert found == {"a.txt", "b c.bin", "100%20 ü.txt", "sub"}


def test_safetensors_gathers_equal_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = fresh.generator()
    arrays = {
        f"model.layers.{i}.{name}": rng.standard_normal(dims).astype(np.float32)
        for i in range(12)
        for name, dims in (("norm.weight", (8,)), ("q.weight", (4, 8)))
    }
    arrays["head.weight"] = np.ones((2, 8), np.float32)
    files.store(tmp_path, arrays)
    _forget(capsys)
    assert _run(capsys, "safetensors", tmp_path).splitlines() == [
        "head  64B",
        "  weight  F32[2,8]  64B",
        "model  1.88KiB",
        "  layers  1.88KiB",
        "    0..11 x 12  160B",
        "      norm  32B",
        "        weight  F32[8]  32B",
        "      q  128B",
        "        weight  F32[4,8]  128B",
        "25 tensors, 1.94KiB, in 1 file(s)",
    ]


def test_safetensors_shows_every_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        "l.weight.absmax", "l.weight", "net.0", "net.1", "net.3", "net.proj", "odd\x1b[2J", ".".join("x" * 2000),
    ]  # fmt: skip
    files.store(tmp_path, {name: np.ones(8, np.float32) for name in names})
    _forget(capsys)
    out = _run(capsys, "safetensors", tmp_path)
    assert out.count("F32[8]") == len(names) - 1 and "\x1b" not in out
    assert "  0..1  F32[8]  32B\n  3  F32[8]  32B\n  proj  F32[8]  32B\n" in out
    assert "  weight\n" not in out and "l.weight  F32[8]  32B\n" in out


@pytest.mark.parametrize("flags", [(), ("--shard", "--cpu_device_count=2")])
def test_load_says_how_much_was_read(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = fresh.generator()
    arrays = {name: rng.standard_normal((6, 10)).astype(np.float16) for name in "abc"}
    files.store(tmp_path, arrays)
    _forget(capsys)
    out = _run(capsys, "load", tmp_path, "--platform=cpu", *flags)
    devices = 2 if flags else 1
    assert out == f"3 tensors, 180 elements on {devices} device(s); 360B read for 360B\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "'' is no command; expected one of ls, tree"),
        (["mv", "a"], "'mv' is no command"),
        (["ls"], "takes 1 argument(s), 0 were given"),
        (["ls", "a", "b"], "takes 1 argument(s), 2 were given"),
        (["cp", "a"], "takes 2 argument(s), 1 were given"),
        (["ls", "x", "--nope"], "Unknown command line flag 'nope'"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in _fails(capsys, 2, *arguments)


def test_what_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ls", "tree", "stat", "cat", "safetensors", "load"):
        assert "none" in _fails(capsys, 1, command, tmp_path / "none")
    assert "nothing fits" in _fails(capsys, 1, "cp", f"{tmp_path}/*.x", tmp_path / "y")
    assert "'ftp' is not known" in _fails(capsys, 1, "cat", "ftp://host/x")
