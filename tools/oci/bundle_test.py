"""What runc is told."""

import json
from pathlib import Path
from typing import Any

from tools.oci import bundle


def config() -> dict[str, Any]:
    return {
        "process": {"args": ["/program", "-m"], "terminal": True, "user": {"uid": 65532}},
        "root": {"path": "rootfs"},
        "linux": {"resources": {"devices": []}, "namespaces": []},
    }


def test_arguments_follow_the_images_own_at_every_run(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config()))
    bundle.main([str(path), "--first"])
    bundle.main([str(path), "--second"])
    made = json.loads(path.read_text())
    assert made["process"] == {
        "args": ["/program", "-m", "--second"],
        "terminal": False,
        "user": {"uid": 65532},
    }
    assert made["root"] == {"path": "rootfs", "readonly": True}
    assert made["linux"] == {"namespaces": []}
