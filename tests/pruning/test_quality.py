"""Removing in one process as long as a perplexity stays within a bound."""

from __future__ import annotations

import gc
import json
import signal
import weakref

import pytest
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.errors import ConfigError, Stopped
from fusegpt.pruning import jobs, loop, quality
from fusegpt.pruning.jobs import prune_model
from fusegpt.pruning.quality import Bound, read_bound
from fusegpt.pruning.recipe import resolve

PLAIN = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "none"}}
FINISH = {"method": "full", "epochs": 1, "batch_size": 4}


@pytest.fixture
def pruned(strong_llama_dir, windows_file, tmp_path):
    """Prune the tiny Llama into a directory of that name; returns its record and its weights."""

    def run(output, wanted, **more):
        settings = {"dtype": "float32", "finetune": {"sequences": 8}, **PLAIN, **more}
        files = {"calibration": windows_file, "finetune": windows_file}
        prune_model(strong_llama_dir, resolve("mine", settings), wanted, output=output, **files)
        record = json.loads((output / "fusegpt.json").read_text())
        return record, (output / "model.safetensors").read_bytes()

    return lambda name, *given, **more: run(tmp_path / name, *given, **more)


@pytest.fixture
def ten_a_block(monkeypatch):
    """Let a perplexity be 10, and 10 more for each block that is gone; returns what was asked."""
    asked = []

    def value(model, windows):
        asked.append(model.num_blocks - len(model.kept))
        return [{"value": 10.0 + 10 * asked[-1]}]

    monkeypatch.setattr(quality, "perplexity", value)
    return asked


@pytest.mark.parametrize("more", [{}, {"finish": FINISH}], ids=["plain", "finish"])
def test_it_ends_before_the_first_step_that_breaks_the_bound(
    more, pruned, ten_a_block, windows_file, tmp_path
):
    found, weights = pruned("until", Bound(30, windows_file), **more)
    plain, same = pruned("plain", "0.3", **more)  # two of six blocks

    assert ten_a_block == [0, 1, 2, 3]
    assert len(found["removed"]) == 2 and found["removed"] == plain["removed"]
    assert found["target"] == "perplexity <= 30 on windows.parquet"
    assert weights == same
    assert not list(tmp_path.glob("*.unfinished"))


def test_the_pruned_model_is_gone_before_it_is_there_anew(
    pruned, ten_a_block, windows_file, monkeypatch
):
    load, loaded, alive = jobs.load_step, [], []

    def noting(*given):
        gc.collect()
        alive.append([one() is not None for one in loaded])
        model = load(*given)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(jobs, "load_step", noting)
    pruned("until", Bound(30, windows_file))
    assert alive == [[], [False]]


def test_one_that_was_stopped_goes_on(pruned, ten_a_block, windows_file, monkeypatch):
    calls, real = [], loop.fuse_step

    def step(*given, **more):
        calls.append(more)
        if len(calls) == 3:
            raise Stopped(signal.SIGTERM)
        return real(*given, **more)

    monkeypatch.setattr(loop, "fuse_step", step)
    with pytest.raises(Stopped, match="2 finished steps are in"):
        pruned("until", Bound(30, windows_file))
    found, _ = pruned("until", Bound(30, windows_file))

    assert len(found["removed"]) == 2 and len(calls) == 4
    assert ten_a_block == [0, 1, 2, 0, 2, 3]


def test_a_bound_that_nothing_breaks_removes_all_that_may_go(pruned, windows_file):
    found, _ = pruned("until", Bound(1e9, windows_file))  # measured as it is

    assert len(found["kept"]) == 1


@pytest.mark.parametrize(
    ("most", "message"),
    [
        (9, "--until: must be at least 10, what the model has before anything goes, got 9"),
        (15, "--until: must be at least 20, what the first removal comes to, got 15"),
    ],
)
def test_a_bound_that_cannot_be_kept_is_refused_with_what_can(
    most, message, pruned, ten_a_block, windows_file, tmp_path
):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        pruned("until", Bound(most, windows_file))
    assert not (tmp_path / "until").exists()


def test_several_at_once_have_no_step_to_stop_at(pruned, windows_file):
    with pytest.raises(ConfigError, match="--until: must be for recipes that remove unit after"):
        run = {"importance": {"metric": "block_influence"}, "selection": "contiguous"}
        pruned("until", Bound(30, windows_file), **run)


@pytest.mark.parametrize("text", ["perplexity", "perplexity=0.5", "perplexity=nan", "speed=2", ""])
def test_what_is_no_bound_is_refused_in_one_line(text, windows_file):
    with pytest.raises(ConfigError, match="--until: must be like perplexity=30, at least 1, got"):
        read_bound(text, windows_file)


def test_the_command_line_wants_windows_and_one_wish(tmp_path):
    line = ["prune", "--model", str(tmp_path), "--recipe", "sleb", "--output", str(tmp_path / "x")]
    done = CliRunner().invoke(fusegpt_command, [*line, "--until", "perplexity=30"])
    assert "--until: must have windows to measure on, got none; see --held-out" in str(
        done.exception
    )
    done = CliRunner().invoke(fusegpt_command, [*line, "--until", "x", "--sparsity", "0.1"])
    assert "Give one of" in done.output
