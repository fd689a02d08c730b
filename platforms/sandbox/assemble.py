"""Makes the sandbox of a platform: picks files from packages, strips them, sets their search path, checks them.

The same inputs give the same bytes. Runs without Bazel too, on wheels or on an installed site-packages:

    python -m platforms.sandbox.assemble --recipe=platforms/cuda/sandbox.toml --lock=platforms/cuda/lock.json \
        --platform=linux_amd64 --site_packages=SITE --out=FOLDER
"""

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from platforms.sandbox import elf, resolve
from platforms.sandbox.manifest import NAME, Entry, Manifest, Package
from platforms.sandbox.recipe import (
    FULL,
    PLATFORMS,
    File,
    Locked,
    Recipe,
    RecipeError,
    read_lock,
    read_recipe,
)
from platforms.sandbox.sources import (
    Deb,
    Installed,
    Source,
    SourceError,
    Wheel,
    check_hash,
    normal,
)

ERRORS = (RecipeError, SourceError, elf.ElfError, resolve.UnresolvedError)


def assemble(
    recipe: Recipe,
    variant: str,
    platform: str,
    sources: Mapping[str, Source],
    locked: Mapping[str, Locked],
    out: Path,
    patchelf: Path | None,
) -> Manifest:
    """Writes the sandbox into the empty folder `out`. Raises one of ERRORS."""
    files = recipe.select(variant)
    if out.is_dir() and any(out.iterdir()):
        raise RecipeError(f"{out}: is not empty; name a new folder")
    packages = [
        _take(name, [file for file in files if file.package == name], sources, locked, out)
        for name in sorted({file.package for file in files})
    ]
    for file in files:
        _trim(out, file, platform)
    _connect(recipe, files, out, patchelf)
    entries = [_entry(out, file) for file in sorted(files, key=lambda file: file.path)]
    manifest = Manifest(recipe.target, platform, variant, tuple(packages), tuple(entries))
    if manifest.size > recipe.max_size:
        raise RecipeError(
            f"the sandbox of {recipe.target} has {manifest.size} bytes, at most {recipe.max_size} are allowed "
            "(max_size in sandbox.toml)"
        )
    (out / NAME).write_text(manifest.dump(), "utf-8")
    return manifest


def _take(
    name: str,
    files: list[File],
    sources: Mapping[str, Source],
    locked: Mapping[str, Locked],
    out: Path,
) -> Package:
    """Extracts the files of one package."""
    if name not in locked:
        raise RecipeError(f"{name} is in the file list, but not in the lock for this platform")
    if name not in sources:
        raise RecipeError(f"{name}: the package was not given (--package=FILE)")
    source = sources[name]
    if isinstance(source, Wheel | Deb):
        check_hash(source.path, locked[name].sha256)
    about = source.about()
    if about.version != locked[name].version:
        raise SourceError(
            f"{name}: has version {about.version}, the lock says {locked[name].version}"
        )
    source.extract({file.member: out / file.path for file in files})
    return Package(name, about.version, about.license or "not stated in the package")


def _trim(out: Path, file: File, platform: str) -> None:
    path = out / file.path
    program = PurePosixPath(file.path).parts[0] == "bin"
    path.chmod(0o755)
    if elf.is_elf(path):
        program = True
        try:
            machine = elf.read_dynamic(path).machine
            elf.strip(path)
        except elf.ElfError as error:
            raise elf.ElfError(f"{file.member} of {file.package}: {error}") from error
        if machine != PLATFORMS[platform]["cpu"]:
            raise elf.ElfError(
                f"{file.member} of {file.package} is for {machine}, expected {PLATFORMS[platform]['cpu']}"
            )
    path.chmod(0o755 if program else 0o644)


def _connect(recipe: Recipe, files: tuple[File, ...], out: Path, patchelf: Path | None) -> None:
    """Sets the search paths, so that the files find each other and nothing of the host's, and checks that they do."""
    binaries = [file for file in files if elf.is_elf(out / file.path)]
    libraries = {PurePosixPath(file.path).name: file.path for file in binaries}
    asking = [resolve.needs(out, file.path, file.opens) for file in binaries]
    left_out = {PurePosixPath(file.path).name for file in recipe.files} - libraries.keys()
    resolve.check(asking, libraries, recipe.external, frozenset(left_out))
    for file in asking:
        wanted = resolve.search_path(file, libraries, recipe.host_folders)
        if wanted != ":".join(elf.read_dynamic(out / file.path).paths):
            _set_search_path(out / file.path, wanted, patchelf)


def _set_search_path(path: Path, wanted: str, patchelf: Path | None) -> None:
    """DT_RPATH, not DT_RUNPATH: it also serves the libraries that a library loads in its turn."""
    # Before patchelf: a program is started by its loader beside it, for no loader is at a fixed place in a Debian tree.
    loaders = sorted(patchelf.parent.parent.glob("lib/*/ld-linux-*.so.*")) if patchelf else []
    start = [str(loaders[0]), "--library-path", str(loaders[0].parent)] if loaders else []
    action = ["--force-rpath", "--set-rpath", wanted] if wanted else ["--remove-rpath"]
    command = [*start, str(patchelf or "patchelf"), *action, str(path)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SourceError(
            f"patchelf: {error.strerror}: install it, or name it with --patchelf"
        ) from error
    if result.returncode:
        raise elf.ElfError(
            f"{path}: patchelf could not set its search path: {result.stderr.strip()}"
        )


def _entry(out: Path, file: File) -> Entry:
    path = out / file.path
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return Entry(file.path, path.stat().st_size, sha256, file.package)


def _sources(options: argparse.Namespace, recipe: Recipe) -> dict[str, Source]:
    if options.site_packages:
        return {
            file.package: Installed(options.site_packages, file.package) for file in recipe.files
        }
    sources: dict[str, Source] = {}
    for path in options.package:
        if path.suffix == ".deb":
            sources[normal(path.stem.split("_")[0])] = Deb(path)
        else:
            sources[normal(path.name.split("-")[0])] = Wheel(path)
    return sources


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--recipe", type=Path, required=True, help="the file list, sandbox.toml")
    parser.add_argument("--lock", type=Path, action="append", required=True, help="lock.json")
    parser.add_argument("--platform", required=True, choices=PLATFORMS)
    parser.add_argument("--variant", default=FULL, help="a smaller sandbox; see the file list")
    parser.add_argument(
        "--package", type=Path, action="append", default=[], help="a wheel or a .deb"
    )
    parser.add_argument("--site_packages", type=Path, help="take installed packages instead")
    parser.add_argument("--patchelf", type=Path, help="default: the one on PATH")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--manifest", type=Path, help="a copy of the manifest")
    options = parser.parse_args(arguments)
    try:
        recipe = read_recipe(options.recipe, options.platform)
        locked: dict[str, Locked] = {}
        for lock in options.lock:
            locked |= read_lock(lock, options.platform)
        manifest = assemble(
            recipe,
            options.variant,
            options.platform,
            _sources(options, recipe),
            locked,
            options.out,
            options.patchelf,
        )
    except ERRORS as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    if options.manifest:
        options.manifest.write_text(manifest.dump(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
