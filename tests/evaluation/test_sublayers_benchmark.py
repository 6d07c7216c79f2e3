"""The benchmark of sublayers on a tiny model: every arm, and what counting says."""

import argparse
import importlib.util

import pytest

from fusegpt.evaluation import inference


@pytest.fixture
def benchmark(root, monkeypatch):
    path = root / "benchmarks" / "sublayers.py"
    spec = importlib.util.spec_from_file_location("sublayers_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(inference, "peak_in_child", lambda *_: 0.5)
    return module


def test_only_removal_saves_weights_and_only_attentions_save_cache(
    benchmark, tiny_llama_dir, tmp_path
):
    arms = benchmark.arms_of(tiny_llama_dir, 0.5, "float32", tmp_path)
    options = argparse.Namespace(dtype="float32", batch=1, prompt=8, new_tokens=2, rounds=1)
    rows = benchmark.measure(arms, options)
    dense = rows["dense"]
    for kind, share in (("attention", 0.5), ("mlp", 1.0)):
        cut, zeros = rows[f"without 3 {kind}"], rows[f"without 3 {kind}, zeros"]
        assert zeros["parameters"] == dense["parameters"] > cut["parameters"]
        assert cut["cache_bytes_per_token"] == share * dense["cache_bytes_per_token"]
        assert zeros["cache_bytes_per_token"] == dense["cache_bytes_per_token"]
        for phase in ("prefill", "decode"):
            assert cut[phase]["speedup_ideal"] > zeros[phase]["speedup_ideal"] == 1.0
