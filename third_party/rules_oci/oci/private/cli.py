"""The command line that the rules call."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import credentials, image, load, push
from .layout import Layout, OciError, encode
from .registry import Registry


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="oci")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("image", "index"):
        commands.add_parser(name).add_argument("spec", help="attributes as JSON")
    describe = commands.add_parser("describe", help="write the descriptor of a layer")
    describe.add_argument("layer")
    describe.add_argument("name", help="what the image's history calls the layer")
    describe.add_argument("output")
    digest = commands.add_parser("digest", help="write the digest of an image or index")
    digest.add_argument("layout")
    digest.add_argument("output")
    loads = commands.add_parser("load", help="hand an image to docker or podman")
    loads.add_argument("layout")
    loads.add_argument("--format", choices=("docker", "oci"), default="docker")
    loads.add_argument("--repo_tags_file", help="NAME:TAG in each line")
    loads.add_argument(
        "--repo_tag", action="append", default=[], help="instead of those of the target"
    )
    loads.add_argument("--output", help="write the archive to this file (-: stdout)")
    pushes = commands.add_parser("push", help="push an image to a registry")
    pushes.add_argument("layout")
    pushes.add_argument("--repository", "-r", help="HOST/NAME")
    pushes.add_argument("--tag", "-t", action="append", default=[], help="a further tag")
    pushes.add_argument("--remote_tags_file", help="a tag in each line")
    pushes.add_argument("--repository_file", help="holds HOST/NAME")
    pushes.add_argument(
        "--mount",
        action="append",
        default=[],
        help="repository of the same registry with blobs to reuse",
    )
    pushes.add_argument("--insecure", action="store_true", help="http instead of https")
    return parser


def _lines(path: str | None) -> list[str]:
    return [line for line in Path(path).read_text("utf-8").split() if line] if path else []


def _push(options: argparse.Namespace) -> None:
    repository = options.repository or "".join(_lines(options.repository_file))
    if not repository:
        raise OciError("the target names no repository: give --repository=HOST/NAME")
    host, name = push.split(repository)
    tags = dict.fromkeys([*_lines(options.remote_tags_file), *options.tag])
    registry = Registry(host, credentials.find(host), options.insecure)
    report = push.push(Layout(Path(options.layout)), registry, name, list(tags), options.mount)
    sent = sum(report.uploaded.values())
    print(
        f"{len(report.uploaded)} blobs sent ({sent} bytes), {len(report.present)} were there, "
        f"{len(report.mounted)} mounted; tags: {', '.join(tags) or 'none'}",
        file=sys.stderr,
    )
    print(f"{repository}@{report.digest}")


def run(arguments: list[str]) -> None:
    """Runs one command."""
    options = _parser().parse_args(arguments)
    if options.command == "image":
        image.build(json.loads(Path(options.spec).read_bytes()))
    elif options.command == "index":
        image.index(json.loads(Path(options.spec).read_bytes()))
    elif options.command == "describe":
        Path(options.output).write_bytes(encode(image.describe(Path(options.layer), options.name)))
    elif options.command == "digest":
        Path(options.output).write_text(Layout(Path(options.layout)).root["digest"])
    elif options.command == "load":
        names = options.repo_tag or _lines(options.repo_tags_file)
        load.load(Layout(Path(options.layout)), names, options.format, options.output)
    else:
        _push(options)


def main() -> int:
    """Returns the exit code."""
    try:
        run(sys.argv[1:])
    except OciError as error:
        print(f"oci: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
