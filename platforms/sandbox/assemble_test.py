"""Whole sandboxes, made of small packages."""

import os
from pathlib import Path

import pytest

from platforms.sandbox import assemble, elf, manifest
from platforms.sandbox._testing import ARM, deb, lock_file, locked, wheel
from platforms.sandbox._testing import elf as make
from platforms.sandbox.sources import normal

RECIPE = """\
target = "demo"
max_size = { linux_amd64 = 100_000 }
[variants]
small = "for the test"
[external]
"libdriver.so.1" = "the driver"
[[file]]
package = "tiny"
member = "demo/plugin.so"
path = "lib/libpjrt_demo.so"
why = "the plugin"
opens = ["libextra.so.2"]
[[file]]
package = "tiny"
member = "demo/extra.so"
path = "lib/libextra.so.2"
why = "opened by the plugin"
leave_out = ["small"]
[[file]]
package = "tiny"
member = "demo/tool"
path = "bin/tool"
why = "started by the plugin"
[[file]]
package = "tiny"
member = "demo/data.bc"
path = "data/data.bc"
why = "read by the plugin"
"""
MEMBERS = {
    "demo/plugin.so": make(("libc.so.6", "libdriver.so.1"), "libplugin.so", debug=b"d" * 5000),
    "demo/extra.so": make(("libm.so.6",), "libextra.so.2"),
    "demo/tool": make(("libc.so.6",)),
    "demo/data.bc": b"BC",
    "demo/unused.so": b"unused",
}


def run(
    tmp_path: Path,
    members: dict[str, bytes] | None = None,
    recipe: str = RECIPE,
    out: str = "out",
    more: tuple[str, ...] = (),
) -> int:
    """The assembler's status, with a lock that names the wheel."""
    path = wheel(tmp_path, MEMBERS if members is None else members)
    (tmp_path / "sandbox.toml").write_text(recipe)
    return assemble.main(
        [
            f"--recipe={tmp_path / 'sandbox.toml'}",
            f"--lock={lock_file(tmp_path / 'lock.json', {'tiny': locked(path)})}",
            "--platform=linux_amd64",
            f"--package={path}",
            f"--out={tmp_path / out}",
            f"--patchelf={patchelf()}",
            *more,
        ]
    )


def patchelf() -> Path:
    """Debian's, from the runfiles; elsewhere the host's."""
    found = sorted(Path("..").glob("*debian_patchelf_*/usr/bin/patchelf"))
    return found[0].absolute() if found else Path("patchelf")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_sandbox_holds_what_the_list_names(tmp_path: Path) -> None:
    assert run(tmp_path, more=(f"--manifest={tmp_path / 'copy.json'}",)) == 0
    out = tmp_path / "out"
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {
        "lib/libpjrt_demo.so",
        "lib/libextra.so.2",
        "bin/tool",
        "data/data.bc",
        "manifest.json",
    }
    plugin = out / "lib/libpjrt_demo.so"
    assert b"dddd" not in plugin.read_bytes()
    assert elf.read_dynamic(plugin).paths == ("$ORIGIN",)
    assert elf.read_dynamic(out / "bin/tool").paths == ()
    assert os.access(out / "bin/tool", os.X_OK) and not os.access(out / "data/data.bc", os.X_OK)
    listed = manifest.read(out / "manifest.json")
    assert (listed.target, listed.platform, listed.variant) == ("demo", "linux_amd64", "full")
    assert listed.packages == (manifest.Package("tiny", "1.0", "MIT"),)
    assert {entry.path: entry.size for entry in listed.files} == {
        name: (out / name).stat().st_size for name in files - {"manifest.json"}
    }
    assert (tmp_path / "copy.json").read_text() == listed.dump()


def test_folders_of_the_host_are_searched_last(tmp_path: Path) -> None:
    recipe = RECIPE.replace("[variants]", 'host_folders = ["/opt/demo/lib"]\n[variants]')
    assert run(tmp_path, recipe=recipe) == 0
    paths = elf.read_dynamic(tmp_path / "out/lib/libpjrt_demo.so").paths
    assert paths == ("$ORIGIN:/opt/demo/lib",)


def test_the_same_packages_give_the_same_bytes(tmp_path: Path) -> None:
    assert run(tmp_path, out="a") == run(tmp_path, out="b") == 0
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes()
            assert path.stat().st_mode == other.stat().st_mode


def test_a_variant_does_without_what_is_opened_by_name(tmp_path: Path) -> None:
    assert run(tmp_path, more=("--variant=small",)) == 0
    assert not (tmp_path / "out/lib/libextra.so.2").exists()
    assert manifest.read(tmp_path / "out/manifest.json").variant == "small"


def test_an_unknown_variant_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, more=("--variant=tiny",)) == 1
    assert "demo has no variant 'tiny': expected one of full, small" in said(capsys)


def test_an_installed_package_gives_the_same_sandbox(tmp_path: Path) -> None:
    import zipfile

    assert run(tmp_path) == 0
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    assert run(tmp_path, out="other", more=(f"--site_packages={tmp_path / 'site'}",)) == 0
    for name in ("manifest.json", "lib/libpjrt_demo.so"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize(
    "member, content, problem",
    [
        ("demo/plugin.so", make(("libmissing.so.3",)), "lib/libpjrt_demo.so needs libmissing.so.3"),
        (
            "demo/plugin.so",
            make(strings=("libmissing.so",)),
            "lib/libpjrt_demo.so opens libmissing.so",
        ),
        (
            "demo/plugin.so",
            make(machine=ARM),
            "demo/plugin.so of tiny is for aarch64, expected x86_64",
        ),
        ("demo/plugin.so", make(("libc.so.6",))[:-10], "demo/plugin.so of tiny: is cut short"),
        ("demo/data.bc", b"x" * 200_000, "the sandbox of demo has 20.... bytes, at most 100000"),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    member: str,
    content: bytes,
    problem: str,
) -> None:
    import re

    assert run(tmp_path, MEMBERS | {member: content}) == 1
    assert re.search(problem, said(capsys))


def test_a_name_without_version_is_what_a_version_is_put_after(tmp_path: Path) -> None:
    strings = ("libextra.so", "libdriver.so")
    assert run(tmp_path, MEMBERS | {"demo/plugin.so": make(strings=strings)}) == 0


def test_what_is_left_out_may_not_be_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = MEMBERS | {"demo/plugin.so": make(("libextra.so.2",))}
    assert run(tmp_path, members, more=("--variant=small",)) == 1
    assert "lib/libpjrt_demo.so needs libextra.so.2" in said(capsys)


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ('"lib/libextra.so.2"', '"../x.so"', "path '../x.so' leads outside"),
        ('"lib/libextra.so.2"', '"/x.so"', "path '/x.so' leads outside"),
        ('"demo/extra.so"', '"demo/../../x"', "member 'demo/../../x' leads outside"),
        ('"lib/libextra.so.2"', '"bin/tool"', "two files would lie at bin/tool"),
        ('["small"]', '["large"]', "leave_out names large, which is no variant"),
        ('why = "the plugin"', "", r"file 1 (lib/libpjrt_demo.so): why is missing"),
        ("max_size = { linux_amd64 = 100_000 }", "", "max_size is missing"),
        ("{ linux_amd64 = 100_000 }", "{}", "linux_amd64 is missing"),
        ("{ linux_amd64 = 100_000 }", "1", "max_size: expected bytes for each platform"),
        ('target = "demo"', 'target = "demo"\nname = 1', "name: expected external, file"),
        ('package = "tiny"', 'package = "other"', "other is in the file list, but not in the lock"),
        ('target = "demo"', "target =", "cannot be read"),
    ],
)
def test_a_bad_list_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, problem: str
) -> None:
    assert old in RECIPE
    assert run(tmp_path, recipe=RECIPE.replace(old, new, 1)) == 1
    assert problem in said(capsys)


def test_a_package_that_is_not_the_locked_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = wheel(tmp_path / "old", MEMBERS)
    lock = lock_file(tmp_path / "old.json", {"tiny": locked(path, "2.0")})
    assert run(tmp_path, more=(f"--lock={lock}",)) == 1
    assert "tiny: has version 1.0, the lock says 2.0" in said(capsys)
    path.write_bytes(b"short")
    lock_file(lock, {"tiny": locked(path)})
    assert run(tmp_path, out="second", more=(f"--lock={lock}",)) == 1
    assert "tiny-1.0-py3-none-any.whl: sha256 is" in said(capsys)


def test_a_package_that_was_not_given_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = lock_file(tmp_path / "l", {"other": locked(wheel(tmp_path, {}, "other"))})
    recipe = RECIPE.replace('package = "tiny"', 'package = "other"', 1)
    assert run(tmp_path, recipe=recipe, more=(f"--lock={lock}",)) == 1
    assert "other: the package was not given" in said(capsys)


def test_a_folder_with_files_in_it_is_not_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert run(tmp_path) == 1
    assert "is not empty; name a new folder" in said(capsys)


def test_wheels_and_debian_packages_are_told_apart(tmp_path: Path) -> None:
    path = deb(tmp_path, {"usr/lib/libextra.so.2": make(soname="libextra.so.2")})
    debian = tmp_path / "debian.json"
    entry = locked(path)
    debian.write_text(
        f'{{"packages": [{{"name": "tiny-deb", "version": "1.0-1", "architecture": "amd64", "path": "x", '
        f'"size": {entry.size}, "sha256": "{entry.sha256}"}}]}}'
    )
    path = path.rename(tmp_path / "tiny-deb_1.0-1_amd64.deb")
    recipe = RECIPE.replace(
        'package = "tiny"\nmember = "demo/extra.so"',
        'package = "tiny-deb"\nmember = "usr/lib/libextra.so.2"',
    )
    assert run(tmp_path, recipe=recipe, more=(f"--lock={debian}", f"--package={path}")) == 0
    listed = manifest.read(tmp_path / "out/manifest.json")
    assert [(p.name, p.license) for p in listed.packages] == [
        (normal("tiny"), "MIT"),
        (normal("tiny-deb"), "Zlib"),
    ]
