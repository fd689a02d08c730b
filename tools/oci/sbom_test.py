"""The bill of materials."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.oci import sbom

DEBIAN = {
    "packages": [
        {
            "name": "libstdc++6",
            "version": "1:14.2.0-19+b1",
            "architecture": "arm64",
            "path": "pool/main/g/gcc/libstdc++6_14.2.0-19_arm64.deb",
            "size": 1,
            "sha256": "a" * 64,
        }
    ]
}
PYPI = {
    "packages": {
        "absl_py": {"version": "2.5", "wheels": {"any": {"file": "absl.whl", "sha256": "b" * 64}}},
        "jaxlib": {
            "version": "0.12",
            "wheels": {
                "linux_amd64": {"file": "amd64.whl", "sha256": "c" * 64},
                "linux_arm64": {"file": "arm64.whl", "sha256": "d" * 64},
            },
        },
    }
}


def document(debs: list[str], wheels: list[str]) -> dict[str, Any]:
    return sbom.document("image", debs, wheels, DEBIAN, PYPI)


def test_packages_are_named_by_version_and_hash() -> None:
    made = document(["libstdc++6_arm64.deb"], ["jaxlib_linux_arm64", "absl_py"])
    image, deb, absl, jaxlib = made["packages"]
    assert image["primaryPackagePurpose"] == "CONTAINER"
    assert (deb["name"], deb["versionInfo"]) == ("libstdc++6", "1:14.2.0-19+b1")
    assert deb["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/libstdc%2B%2B6@1%3A14.2.0-19%2Bb1?arch=arm64&distro=debian-13"
    )
    assert deb["checksums"] == [{"algorithm": "SHA256", "checksumValue": "a" * 64}]
    assert absl["externalRefs"][0]["referenceLocator"] == "pkg:pypi/absl-py@2.5"
    assert (jaxlib["packageFileName"], jaxlib["checksums"][0]["checksumValue"]) == (
        "arm64.whl",
        "d" * 64,
    )


def test_the_document_is_what_spdx_asks_for() -> None:
    made = document(["libstdc++6_arm64.deb"], ["absl_py"])
    assert made["spdxVersion"] == "SPDX-2.3"
    ids = [package["SPDXID"] for package in made["packages"]]
    assert len(set(ids)) == len(ids) == 3
    for package in made["packages"]:
        assert package.keys() >= {"name", "SPDXID", "downloadLocation", "filesAnalyzed"}
    first, *rest = made["relationships"]
    assert first["relationshipType"] == "DESCRIBES"
    assert [relation["relatedSpdxElement"] for relation in rest] == ids[1:]


def test_the_namespace_is_of_the_content() -> None:
    one, same, other = document([], ["absl_py"]), document([], ["absl_py"]), document([], [])
    assert one == same
    assert one["documentNamespace"] != other["documentNamespace"]


@pytest.mark.parametrize(
    ("debs", "wheels"), [(["absent_amd64.deb"], []), ([], ["jaxlib_macos_arm64"])]
)
def test_what_is_in_no_lock(debs: list[str], wheels: list[str]) -> None:
    with pytest.raises(SystemExit, match="is not in"):
        document(debs, wheels)


def test_the_command_line(tmp_path: Path) -> None:
    locks = []
    for name, lock in (("debian", DEBIAN), ("pypi", PYPI)):
        (tmp_path / name).write_text(json.dumps(lock))
        locks.append(f"--{name}_lock={tmp_path / name}")
    output = tmp_path / "out.json"
    sbom.main(["--name=image", *locks, "--deb=libstdc++6_arm64.deb", f"--output={output}"])
    assert json.loads(output.read_text()) == document(["libstdc++6_arm64.deb"], [])
