"""A checkpoint that does not fit a model: the error names both sides."""

import json
import struct
from pathlib import Path

import pytest

from zml.errors import CheckpointError
from zml.io import TensorStore


def test_the_error_names_what_the_model_lacks_and_what_is_there_instead(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"model.up": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    store = TensorStore.open(tmp_path)
    view = store.view()
    with pytest.raises(CheckpointError) as error:
        store.check([view.tensor("up", {"d": 2}), view.tensor("model.up", {"d": 3})])
    assert "up missing; model.up is [2], expected [3]" in str(error.value)
    with pytest.raises(CheckpointError, match=r"It has model\.up, which the model does not use"):
        store.check([view.tensor("up", {"d": 2})])
