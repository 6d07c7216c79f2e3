"""Reading and writing safetensors files one tensor at a time."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from fusegpt.errors import ArtifactError
from fusegpt.models.stored import DTYPES, metadata_of, stored_in, write_tensors


@pytest.fixture
def tensors():
    """One of every dtype under each of two names, a number, and one with nothing in it."""
    found = {"number": torch.tensor(1.5), "empty \u00e9": torch.zeros(0, 3, dtype=torch.float16)}
    for place, dtype in enumerate(DTYPES.values()):
        for name in ("z", "a"):
            found[f'{name}.{place}."{dtype}"'] = torch.arange(3 + place).reshape(1, -1).to(dtype)
    return found


def test_a_file_is_written_as_the_library_writes_it(tensors, tmp_path):
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    kinds = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    write_tensors(tmp_path / "ours", kinds, tensors.__getitem__, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert metadata_of(tmp_path / "ours") == {"format": "pt"}


def test_what_was_written_is_read_back_in_aligned_memory(tensors, tmp_path):
    save_file(tensors, tmp_path / "file")
    stored = stored_in([tmp_path / "file"])
    assert stored.keys() == tensors.keys()
    for name, value in tensors.items():
        again = stored[name].read()
        assert (again.dtype, again.shape) == (value.dtype, value.shape)
        assert torch.equal(again, value)
        assert again.data_ptr() % 64 == 0


@pytest.mark.parametrize("content", [b"", b"nonsense", "cut", "longer", "no file"])
def test_a_damaged_file_is_refused_in_one_line(tensors, tmp_path, content):
    file = tmp_path / "file"
    save_file(tensors, file)
    whole = file.read_bytes()
    made = {"cut": whole[:-1], "longer": whole + b"x"}
    file.write_bytes(made.get(content, content)) if content != "no file" else file.unlink()
    with pytest.raises(ArtifactError, match=r"file: not a readable safetensors file \(") as caught:
        stored_in([file])
    assert "\n" not in str(caught.value)


def test_a_file_that_shrinks_is_noticed_when_it_is_read(tmp_path):
    file = tmp_path / "file"
    save_file({"a": torch.zeros(100)}, file)
    place = stored_in([file])["a"]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="cannot be read: it is shorter than it was"):
        place.read()
