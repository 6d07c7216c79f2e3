from __future__ import annotations

import os
import shutil

import pytest
import torch

from fusegpt.artifacts import file_record, sha256, write_json
from fusegpt.errors import ArtifactError
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import write_delta
from fusegpt.models.surgery.removal import remove
from fusegpt.units import Unit
from tests import tiny

REMOVED = [3, 1]
CHANGED = [[2, 4], [0, 2]]
UP = "blocks.{}.mlp.up_proj.weight"


def link(path, directory):
    return {"path": os.path.relpath(path, directory), "sha256": sha256(path)}


@pytest.fixture
def chain(tiny_llama_dir, tmp_path):
    """Two steps on disk, each with a delta, and the model they lead to."""
    note = shutil.copytree(tiny_llama_dir, tmp_path / "model") / "source.json"
    write_json(note, {})
    model = load(tiny_llama_dir, dtype="float32")
    before = tmp_path / "runs" / "step-000"
    write_json(before / "manifest.json", {"kind": "start", "parent": link(note, before)})
    for step, (index, changed) in enumerate(zip(REMOVED, CHANGED, strict=True), start=1):
        remove(model, Unit("block", index))
        names = [UP.format(i) for i in changed]
        for name in names:
            model.parameter(name).data += step
        directory = tmp_path / "runs" / f"step-{step:03d}"
        write_delta(model, directory / "delta.safetensors", names)
        notes = {
            "kind": "step",
            "step": step,
            "unit": Unit("block", index).to_json(),
            "parent": link(before / "manifest.json", directory),
            "files": {"delta.safetensors": file_record(directory / "delta.safetensors")},
        }
        write_json(directory / "manifest.json", notes)
        before = directory
    return tmp_path / "runs", model


def test_a_step_is_loaded_from_its_manifest_or_directory(chain, tmp_path):
    runs, model = chain
    for path in (runs / "step-002" / "manifest.json", runs / "step-002"):
        again = load(path, dtype="float32")
        assert again.kept == [0, 2, 4, 5]
        assert again.removed == [Unit("block", 3), Unit("block", 1)]
        assert (again.num_blocks, again.source) == (6, tmp_path / "model")
        state = again.module.state_dict()
        assert all(torch.equal(state[k], v) for k, v in model.module.state_dict().items())
        with torch.no_grad():
            assert torch.equal(again.module(tiny.ids()).logits, model.module(tiny.ids()).logits)


def test_every_step_can_be_loaded(chain):
    runs, _ = chain
    assert load(runs / "step-000").kept == [0, 1, 2, 3, 4, 5]
    assert load(runs / "step-001").kept == [0, 1, 2, 4, 5]


def test_a_changed_delta_is_refused(chain):
    runs, _ = chain
    delta = runs / "step-001" / "delta.safetensors"
    content = bytearray(delta.read_bytes())
    content[-1] ^= 1
    delta.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"step-001/delta\.safetensors: checksum must be"):
        load(runs / "step-002")


def test_a_changed_parent_is_refused(chain):
    runs, _ = chain
    write_json(runs / "step-001" / "manifest.json", {"kind": "start"})
    with pytest.raises(ArtifactError, match=r"step-001/manifest\.json: checksum must be"):
        load(runs / "step-002")


def test_a_missing_file_of_the_chain_is_refused(chain):
    runs, _ = chain
    (runs / "step-001" / "delta.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"step-001/delta\.safetensors: missing"):
        load(runs / "step-002")
    (runs / "step-001" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"step-001/manifest\.json: missing"):
        load(runs / "step-002")


@pytest.mark.parametrize(
    "notes, message",
    [
        ({}, "must be the manifest of a step"),
        ([], "must be the manifest of a step"),
        ({"kind": "step", "parent": {"path": "x", "sha256": ""}}, "must be the manifest"),
        (
            {
                "kind": "x",
                "parent": {"path": "x", "sha256": ""},
                "unit": {"granularity": "block", "index": 1},
            },
            "kind: must be 'start' or 'step', got 'x'",
        ),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, notes, message):
    write_json(tmp_path / "manifest.json", notes)
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path)
