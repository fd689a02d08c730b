"""A sandbox of gigabytes, built: it is what the kept manifest says.

Run by name: ./bazel test //platforms/cuda:sandbox_test //platforms/tpu:sandbox_test //platforms/rocm:sandbox_test
"""

import os
from pathlib import Path

from platforms.sandbox import elf, manifest

ROOT = Path("platforms", os.environ["SANDBOX"], "sandbox").absolute()


def test_the_build_gives_what_the_kept_manifest_lists() -> None:
    listed = manifest.read(ROOT / manifest.NAME)
    kept = ROOT.parent / "manifests" / f"{listed.platform}.{listed.variant}.json"
    assert (ROOT / manifest.NAME).read_text() == kept.read_text()
    for file in listed.files:
        assert (ROOT / file.path).stat().st_size == file.size


def test_search_paths_lead_into_the_sandbox_first() -> None:
    for path in sorted((ROOT / "lib").iterdir()):
        paths = elf.read_dynamic(path).paths
        assert not paths or paths[0].startswith(("$ORIGIN", "/opt/rocm"))
