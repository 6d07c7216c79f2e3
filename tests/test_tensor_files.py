"""The header of a safetensors file, read as the library reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fusegpt.errors import ArtifactError
from fusegpt.tensor_files import read_header


def test_a_header_says_what_lies_where(tmp_path):
    file, tensors = tmp_path / "file", {"b": np.ones((2, 3), "f4"), "a": np.arange(5, dtype="i8")}
    save_file(tensors, file, {"format": "pt"})
    header = read_header(file)

    with safe_open(file, framework="np") as opened:
        assert dict(header.metadata) == opened.metadata()
    assert {name: place.shape for name, place in header.tensors.items()} == {"b": (2, 3), "a": (5,)}
    assert sum(place.count for place in header.tensors.values()) == 11
    assert header.end == header.size == file.stat().st_size
    for name, place in header.tensors.items():
        assert file.read_bytes()[place.begin : place.end] == tensors[name].tobytes()


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}},
        {"__metadata__": "pt"},
    ],
)
def test_what_is_no_header_is_one_line(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text)

    with pytest.raises(ArtifactError, match="file: not a readable safetensors file") as caught:
        read_header(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ArtifactError, match="absent: not a readable safetensors file"):
        read_header(tmp_path / "absent")
