"""The bill of materials of an image, in SPDX 2.3: its packages with versions and hashes, from the locks."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_CREATED = "1970-01-01T00:00:00Z"


def document(
    name: str,
    debs: Iterable[str],
    wheels: Iterable[str],
    debian_lock: dict[str, Any],
    pypi_lock: dict[str, Any],
) -> dict[str, Any]:
    """The document. `debs` are files NAME_ARCHITECTURE.deb, `wheels` PACKAGE or PACKAGE_PLATFORM."""
    packages = [_deb(stem, debian_lock) for stem in sorted(set(debs))]
    packages += [_wheel(wheel, pypi_lock) for wheel in sorted(set(wheels))]
    image = _package(name, None, "NOASSERTION", None) | {
        "SPDXID": "SPDXRef-Image",
        "primaryPackagePurpose": "CONTAINER",
        "licenseDeclared": "NOASSERTION",
    }
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", image["SPDXID"])]
    relations += [(image["SPDXID"], "CONTAINS", package["SPDXID"]) for package in packages]
    # A name that is new for new content, and the same for the same.
    fingerprint = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://zml.ai/spdx/{name}-{fingerprint}",
        "creationInfo": {
            "created": _CREATED,
            "creators": ["Tool: zml-oci-sbom", "Organization: zml"],
        },
        "packages": [image, *packages],
        "relationships": [
            {"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b}
            for a, kind, b in relations
        ],
    }


def _package(name: str, version: str | None, supplier: str, purl: str | None) -> dict[str, Any]:
    package: dict[str, Any] = {
        "SPDXID": "",
        "name": name,
        "supplier": supplier,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    }
    if version is not None:
        package["versionInfo"] = version
    if purl is not None:
        reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl"}
        package["externalRefs"] = [reference | {"referenceLocator": purl}]
    return package


def _deb(stem: str, lock: dict[str, Any]) -> dict[str, Any]:
    name, _, architecture = stem.removesuffix(".deb").rpartition("_")
    found = [p for p in lock["packages"] if (p["name"], p["architecture"]) == (name, architecture)]
    if len(found) != 1:
        raise SystemExit(f"sbom: {stem} is not in Debian's lock: expected NAME_ARCHITECTURE.deb")
    version = found[0]["version"]
    escaped = version.replace("+", "%2B").replace(":", "%3A")
    purl = (
        f"pkg:deb/debian/{name.replace('+', '%2B')}@{escaped}?arch={architecture}&distro=debian-13"
    )
    return (
        _package(name, version, "Organization: Debian", purl)
        | _file(Path(found[0]["path"]).name, found[0]["sha256"])
        | {"SPDXID": _id("deb", name, architecture)}
    )


def _wheel(wheel: str, lock: dict[str, Any]) -> dict[str, Any]:
    for name, package in lock["packages"].items():
        for platform, file in package["wheels"].items():
            if wheel == (name if platform == "any" else f"{name}_{platform}"):
                public = name.replace("_", "-")
                purl = f"pkg:pypi/{public}@{package['version']}"
                return (
                    _package(public, package["version"], "NOASSERTION", purl)
                    | _file(file["file"], file["sha256"])
                    | {"SPDXID": _id("wheel", name, platform)}
                )
    raise SystemExit(f"sbom: the wheel {wheel} is not in the lock of wheels")


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {
        "packageFileName": name,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
    }


def _id(*parts: str) -> str:
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", "-".join(parts))


def main(arguments: Sequence[str]) -> None:
    """Command line: see layers.bzl."""
    parser = argparse.ArgumentParser(prog="sbom")
    parser.add_argument("--name", required=True)
    parser.add_argument("--debian_lock", type=Path, required=True)
    parser.add_argument("--pypi_lock", type=Path, required=True)
    parser.add_argument("--deb", action="append", default=[])
    parser.add_argument("--wheel", action="append", default=[])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    locks = [json.loads(path.read_bytes()) for path in (options.debian_lock, options.pypi_lock)]
    value = document(options.name, options.deb, options.wheel, *locks)
    options.output.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
