"""The walk along a chain."""

from __future__ import annotations

import json

import pytest

from fusegpt.errors import ArtifactError
from fusegpt.results.history import Link, read_history
from fusegpt.units import Unit
from tests.results.conftest import REMOVED, write


def test_a_walk_says_what_was_removed_kept_and_changed(chain):
    history = read_history(chain)

    assert history.removed == [Unit("block", index) for index in REMOVED]
    assert history.kept == [0, 1, 5]
    assert [file.parent.name for file in history.deltas] == ["step-001", "step-002", "step-003"]
    assert history.source == chain.parents[4] / "models/tiny/source.json"
    assert history.dense.num_blocks == 6
    assert [step.step for step in history.steps] == [1, 2, 3]


def test_what_a_removed_unit_had_received_is_gone_with_it(chain):
    assert read_history(chain).fused == {1: [2, 4], 5: [4]}


def test_the_dense_model_has_an_empty_history(chain):
    history = read_history(chain.parent.with_name("step-000") / "manifest.json")

    assert history.links == () and history.removed == [] and history.kept == list(range(6))


def test_each_step_has_its_scores_and_rows(chain):
    first = read_history(chain).links[0]

    assert first.scores.chosen == [Unit("block", 3)]
    assert first.scores.units[0].model_extra == {"deviation": 0.5}
    assert [row.loss for row in first.training.rows] == [0.5]
    (first.file.parent / "training.json").unlink()
    assert Link(first.file, first.record).training.rows == []


def test_a_run_of_neighbours_is_one_step_that_removed_them_all(chain):
    value = json.loads(chain.read_text())
    units = [{"granularity": "block", "index": index} for index in (4, 5)]
    write(chain, {**value, "step": 4, "unit": units[0], "units": units})

    assert read_history(chain).removed == [Unit("block", index) for index in (3, 2, 4, 5)]


@pytest.mark.parametrize("step", ["step-000", "step-002"])
def test_a_manifest_that_is_not_what_its_child_says_is_refused(chain, step):
    file = chain.parent.with_name(step) / "manifest.json"
    file.write_text(file.read_text() + " ")

    for whole in (True, False):
        with pytest.raises(ArtifactError, match=rf"{step}/manifest\.json: checksum must be"):
            read_history(chain, whole=whole)


def test_changed_tensors_and_the_dense_model_are_checked_for_those_who_load(chain):
    source = chain.parents[4] / "models/tiny/source.json"
    delta = chain.parent.with_name("step-001") / "delta.safetensors"
    for file in (source, delta):
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(ArtifactError, match=f"{file.name}: "):
            read_history(chain)
        assert len(read_history(chain, whole=False).links) == 3
        file.write_bytes(before)


def test_a_missing_step_is_named(chain):
    (chain.parent.with_name("step-002") / "manifest.json").unlink()

    with pytest.raises(ArtifactError, match=r"step-002/manifest\.json: missing"):
        read_history(chain)
