"""A run in one process that was stopped goes on where it was, to the same bytes."""

from __future__ import annotations

import os
import signal

import pytest

from fusegpt.errors import Stopped
from fusegpt.pruning import loop, position
from fusegpt.pruning.jobs import prune_model
from fusegpt.pruning.recipe import resolve
from fusegpt.recovery import training
from fusegpt.signals import stoppable
from tests.quick import each, slow

SMALL = {"epochs": 2, "batch_size": 4, "group_size": 2, "rank": 2, "lora_rank": 2}
FUSION = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "fusion", **SMALL}}
RECIPES = {
    "each_step": FUSION,
    "at_end": {**FUSION, "recovery": {**FUSION["recovery"], "fold": "at_end"}},
    "one_shot": {**FUSION, "selection": "one_shot", "recovery": {"method": "none"}},
    "mixed": {**FUSION, "granularity": "mixed", "recovery": {"method": "none"}},
    "lora": {
        **FUSION,
        "recovery": {"method": "lora", "epochs": 1, "batch_size": 4, "lora_rank": 2},
    },
}


def recipe(name):
    return resolve("mine", {"dtype": "float32", "finetune": {"sequences": 8}, **RECIPES[name]})


@pytest.fixture
def pruned(strong_llama_dir, windows_file, tmp_path):
    """Prune the tiny Llama into a directory of that name; returns the weights' bytes."""

    def run(name, output, sparsity="0.5"):
        out = tmp_path / output
        windows = {"calibration": windows_file, "finetune": windows_file}
        prune_model(strong_llama_dir, recipe(name), sparsity, output=out, **windows)
        return (out / "model.safetensors").read_bytes()

    return run


def stop_at(monkeypatch, number):
    """Stop the run when its fuse_step is called for the ``number``-th time."""
    calls, real = [], loop.fuse_step

    def step(*given, **more):
        calls.append(more["checkpoint"].path)
        if len(calls) == number:
            raise Stopped(signal.SIGTERM)
        return real(*given, **more)

    monkeypatch.setattr(loop, "fuse_step", step)
    return calls


@pytest.mark.parametrize("name", each(RECIPES, quick=("each_step", "one_shot")))
def test_finished_steps_are_taken_over(name, pruned, tmp_path, monkeypatch):
    whole = pruned(name, "whole")
    kept = tmp_path / "out.unfinished"
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stopped, match=rf"SIGTERM; 2 finished steps are in {kept}; run again"):
            pruned(name, "out")
    assert (kept / "steps.json").is_file() and not (tmp_path / "out").exists()

    calls = stop_at(monkeypatch, 99)
    assert pruned(name, "out") == whole
    assert len(calls) == (6 if name == "mixed" else 3) - 2
    assert {path.parent for path in calls} == {kept}
    assert not kept.exists()


def test_a_signal_inside_a_tuning_loses_no_optimiser_step(pruned, tmp_path, monkeypatch):
    whole = pruned("each_step", "whole")
    saved, real = [], training.asked_to_stop

    def asked():
        saved.append(1)
        if len(saved) == 6:  # four optimiser steps a removal
            os.kill(os.getpid(), signal.SIGTERM)
        return real()

    with monkeypatch.context() as patch, stoppable():
        patch.setattr(training, "asked_to_stop", asked)
        with pytest.raises(Stopped, match=r"saved after optimiser step 2 of 4 in .*out\.unfin"):
            pruned("each_step", "out")
    assert sorted(file.name for file in (tmp_path / "out.unfinished").iterdir()) == [
        "delta-001.safetensors",
        "resume.safetensors",
        "steps.json",
    ]
    assert pruned("each_step", "out") == whole


@pytest.mark.parametrize("change", ["recipe", slow("model"), "windows", "bit", slow("record")])
def test_what_belongs_to_something_else_is_not_taken_over(
    change, pruned, strong_llama_dir, windows_file, tmp_path, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stopped):
            pruned("one_shot", "out")
    kept = tmp_path / "out.unfinished"
    if change == "model":
        os.utime(strong_llama_dir / "model.safetensors", (1, 1))
    elif change == "windows":
        other = tmp_path / "other.parquet"
        from fusegpt.data.window_files import write_windows
        from tests import tiny

        write_windows(other, tiny.ids(8, 10, seed=5).numpy(), {"corpus": "random"})
        os.replace(other, windows_file)
    elif change == "bit":
        file = kept / "delta-001.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif change == "record":
        (kept / "steps.json").write_text("{")
    calls = stop_at(monkeypatch, 99)
    with caplog.at_level("INFO", logger=position.__name__):
        pruned("each_step" if change == "recipe" else "one_shot", "out")
    assert len(calls) == 3
    said = "beginning anew: " if change in ("bit", "record") else "ignoring "
    assert said in caplog.text
    assert not kept.exists()


@pytest.mark.slow
def test_a_smaller_sparsity_takes_over_what_it_needs(pruned, monkeypatch):
    whole = pruned("each_step", "whole", "0.16")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stopped):
            pruned("each_step", "out")
    calls = stop_at(monkeypatch, 99)
    assert pruned("each_step", "out", "0.16") == whole
    assert calls == []


def test_files_of_others_stay(pruned, tmp_path):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "mine.txt").write_text("mine")
    pruned("one_shot", "out")
    assert [file.name for file in (tmp_path / "out.unfinished").iterdir()] == ["mine.txt"]


def test_a_step_goes_on_compiled_or_not_as_it_was_begun(strong_llama_dir, windows_file, tmp_path):
    asked = (tmp_path / "out", recipe("each_step"), strong_llama_dir, {"finetune": windows_file}, 2)
    plain, compiled = (position.Position(*asked, compiled=way) for way in (False, True))
    assert plain.fingerprint == compiled.fingerprint  # finished steps are taken over by both
    assert plain.checkpoint().fingerprint != compiled.checkpoint().fingerprint
    one, other = (where.checkpoint("finish") for where in (plain, compiled))
    assert one.fingerprint == other.fingerprint  # which is never compiled
