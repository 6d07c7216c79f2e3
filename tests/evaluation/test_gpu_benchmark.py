"""The benchmark of one GPU on the CPU, in a tiny shape: its arms agree and it keeps to its time."""

import json
import math
import runpy
import sys
import time

import pytest
import torch

SECTIONS = ("equality", "scoring", "tuning", "linear", "inference", "streamed")


def measured(root, tmp_path, monkeypatch, *words):
    output = tmp_path / "gpu.json"
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as for a program that is run
    common = ["gpu.py", "--tiny", "--device", "cpu", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*common, *words])
    runpy.run_path(str(root / "benchmarks/gpu.py"), run_name="__main__")
    return json.loads(output.read_text())


@pytest.mark.slow
def test_arms_agree_and_ratios_stand_beside_their_bounds(root, tmp_path, monkeypatch):
    found = measured(root, tmp_path, monkeypatch)
    differences = ("largest_difference", "published_difference", "sleb_difference")
    assert [found["scoring"][name] for name in differences] == [0.0] * 3
    assert found["scoring"]["bound"] == pytest.approx(12 / 7)
    losses = found["tuning"]["last_losses"]
    assert losses["ours"] == losses["recomputed"] == pytest.approx(losses["plain"], rel=1e-5)
    assert losses["published"] == losses["plain"]
    assert {len(seconds) for seconds in found["tuning"]["seconds"].values()} == {2}
    assert all(1 < found["inference"][part]["bound"] < 6 / 5 for part in ("prefill", "decode"))
    assert found["equality"]["largest_difference"] == 0.0  # the CPU against itself
    assert found["equality"]["streamed_difference"] == 0.0


def test_a_model_of_one_block_many_times_is_read_once(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    parts = runpy.run_path(str(root / "benchmarks/gpu_scoring.py"))
    sizes = runpy.run_path(str(root / "benchmarks/gpu.py"))["TINY"]
    cpu = torch.device("cpu")
    found = parts["streamed"](sizes, cpu, torch.float32, math.inf)
    assert found["models_read"] == 1.0 and found["models_read_by_candidate"] == 12
    found = parts["streamed"](sizes, cpu, torch.float32, time.monotonic())
    assert found["seconds"] == "not measured: no time left" and "models_read" not in found


def test_what_there_is_no_time_for_is_said_to_be_not_measured(root, tmp_path, monkeypatch):
    found = measured(root, tmp_path, monkeypatch, "--limit", "0")
    assert [found[name] for name in SECTIONS] == ["not measured: no time left"] * 6
