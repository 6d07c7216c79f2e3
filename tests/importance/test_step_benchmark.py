"""The benchmark of one removal on a tiny model: equal scores, and what counting says."""

import json
import runpy
import sys

import pytest


def test_both_ways_of_scoring_agree_and_rates_follow_from_the_counts(
    root, tiny_llama_dir, tmp_path, monkeypatch
):
    output = tmp_path / "step.json"
    sizes = ["--calibration", "2", "--windows", "8", "--length", "12", "--rank", "2"]
    words = [str(tiny_llama_dir), "--output", str(output), "--rounds", "1", *sizes]
    monkeypatch.setattr(sys, "argv", ["step.py", *words])

    runpy.run_path(str(root / "benchmarks/step.py"), run_name="__main__")

    found = json.loads(output.read_text())
    assert found["scoring"]["plain_over_shared_counted"] == pytest.approx(2 * 6 / 7, abs=1e-3)
    assert found["scoring"]["tflops_per_second"] > 0
    fused = found["fusion"]
    assert fused["tokens"] == 8 * 12
    assert fused["tflops_per_second"] == pytest.approx(
        fused["flops"] / fused["seconds"] / 1e12, rel=0.05
    )
    assert found["settings"]["model"] == tiny_llama_dir.name
