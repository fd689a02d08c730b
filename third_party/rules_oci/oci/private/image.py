"""Makes images and indexes from what the rules say, as a JSON file with the names of their attributes."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

from .layout import CONFIG, INDEX, LAYER, MANIFEST, Descriptor, Layout, OciError, Writer

EPOCH = "1970-01-01T00:00:00Z"
_BLOCK = 1 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def describe(layer: Path, name: str) -> Descriptor:
    """The descriptor of a layer, with its `diff_id` and its name beside what a manifest holds.

    The digest names the file as it is, the diff_id its tar archive without compression.
    """
    whole = hashlib.sha256()
    with layer.open("rb") as file:
        magic = file.read(4)
        if magic == _ZSTD:
            raise OciError(
                f"{layer} is compressed with zstd: expected a tar archive, plain or gzip"
            )
        zipped = magic[:2] == b"\x1f\x8b"
        inner = hashlib.sha256() if zipped else whole
        unzip = zlib.decompressobj(31)
        file.seek(0)
        size = 0
        while block := file.read(_BLOCK):
            size += len(block)
            whole.update(block)
            while zipped and block:
                inner.update(unzip.decompress(block))
                block = unzip.unused_data
                if unzip.eof:  # a gzip file may be of several parts
                    unzip = zlib.decompressobj(31)
    return {
        "mediaType": LAYER + ("+gzip" if zipped else ""),
        "digest": "sha256:" + whole.hexdigest(),
        "size": size,
        "diff_id": "sha256:" + inner.hexdigest(),
        "name": name,
    }


def build(spec: dict[str, Any]) -> None:
    """Writes the layout of an image to `spec["output"]`."""
    writer = Writer(Path(spec["output"]))
    config, manifest = _base(spec, writer)
    created = _text(spec, "created") or EPOCH
    for layer in spec["layers"]:
        described = json.loads(Path(layer["descriptor"]).read_bytes())
        name, diff_id = described.pop("name"), described.pop("diff_id")
        writer.copy(described, Path(layer["tar"]))
        manifest["layers"].append(described)
        config["rootfs"]["diff_ids"].append(diff_id)
        config["history"].append({"created": created, "created_by": name})
    config["created"] = created
    _configure(config["config"], spec)
    manifest["config"] = writer.add(CONFIG, config)
    annotations = manifest.get("annotations", {}) | _mapping(spec, "annotations")
    if annotations:
        manifest["annotations"] = annotations
    root = writer.add(MANIFEST, manifest)
    platform = {key: config[key] for key in ("os", "architecture", "variant") if key in config}
    writer.finish({**root, "platform": platform})


def index(spec: dict[str, Any]) -> None:
    """Writes the layout of an index over the images of other layouts to `spec["output"]`."""
    writer = Writer(Path(spec["output"]))
    manifests: list[Descriptor] = []
    for folder in spec["images"]:
        layout = Layout(Path(folder))
        for image in layout.images():
            twin = [m for m in manifests if m.get("platform") == image.get("platform")]
            if twin and twin[0]["digest"] != image["digest"]:
                raise OciError(
                    f"two images of the index are for {image.get('platform')}: "
                    f"{twin[0]['digest']} and {image['digest']} of {folder}; expected one a platform"
                )
            if not twin:
                writer.copy_image(layout, image)
                manifests.append(image)
    value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    annotations = _mapping(spec, "annotations")
    writer.finish(writer.add(INDEX, value | ({"annotations": annotations} if annotations else {})))


def _base(spec: dict[str, Any], writer: Writer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and manifest to go on from: the base's, or empty ones."""
    wanted = {key: spec[key] for key in ("os", "architecture", "variant") if spec[key]}
    if not spec["base"]:
        if not spec["os"] or not spec["architecture"]:
            raise OciError("an image needs a base, or both os and architecture")
        config = {
            **wanted,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": []},
            "history": [],
        }
        return config, {"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}
    layout = Layout(Path(spec["base"]))
    images = layout.images()
    if len(images) != 1:
        raise OciError(
            f"the base {spec['base']} is an index of {len(images)} images: expected one image"
        )
    manifest = layout.json(images[0])
    config = layout.json(manifest["config"])
    for key, value in wanted.items():
        if config.get(key) != value:
            raise OciError(f"the base is for {key} {config.get(key)}, the image for {value}")
    for blob in manifest["layers"]:
        writer.copy(blob, layout.path(blob))
    config.setdefault("config", {})
    config.setdefault("history", [])
    return config, manifest


def _configure(config: dict[str, Any], spec: dict[str, Any]) -> None:
    """Puts the attributes of the rule into the config; what is not given stays the base's."""
    for key, name in (("User", "user"), ("WorkingDir", "workdir")):
        if spec[name]:
            config[key] = spec[name]
    if (entrypoint := _lines(spec, "entrypoint")) is not None:
        config["Entrypoint"] = entrypoint
        config.pop("Cmd", None)  # arguments for another program
    if (cmd := _lines(spec, "cmd")) is not None:
        config["Cmd"] = cmd
    environment = dict(item.split("=", 1) for item in config.get("Env", []))
    for name, value in _mapping(spec, "env").items():
        environment[name] = _VARIABLE.sub(
            lambda match: environment.get(match[1] or match[2], ""), value
        )
    if environment:
        config["Env"] = [f"{name}={value}" for name, value in environment.items()]
    if labels := config.get("Labels", {}) | _mapping(spec, "labels"):
        config["Labels"] = labels
    for key, name in (("ExposedPorts", "exposed_ports"), ("Volumes", "volumes")):
        if values := _lines(spec, name):
            config[key] = config.get(key, {}) | {value: {} for value in values}


def _text(spec: dict[str, Any], name: str) -> str | None:
    """The content of an attribute that names a file."""
    path = spec.get(name + "_file")
    return Path(path).read_text("utf-8").strip() if path else None


def _lines(spec: dict[str, Any], name: str) -> list[str] | None:
    """A list, from the attribute itself or from the lines of its file; None where neither is given."""
    text = _text(spec, name)
    values: list[str] | None = spec.get(name)
    return values if text is None else [line for line in text.splitlines() if line]


def _mapping(spec: dict[str, Any], name: str) -> dict[str, str]:
    """A dict, from the attribute itself or from the `KEY=VALUE` lines of its file."""
    text = _text(spec, name)
    if text is None:
        values: dict[str, str] = spec.get(name) or {}
        return values
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if line and not equals:
            raise OciError(
                f"{spec[name + '_file']}: expected KEY=VALUE in each line, found {line!r}"
            )
        if line:
            found[key] = value
    return found
