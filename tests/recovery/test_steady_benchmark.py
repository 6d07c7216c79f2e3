"""The script behind the table of diverging tunings, on a tiny model."""

import json
import runpy
import sys

import pytest
import torch

from fusegpt.data.window_files import write_windows
from tests import tiny


def test_it_tells_the_error_of_ordinary_tokens_from_that_of_long_ones(
    root, tiny_llama_dir, tmp_path, monkeypatch
):
    write_windows(tmp_path / "w.parquet", tiny.ids(8, 8).numpy().astype("int32"), {})
    output = tmp_path / "steady.json"
    arms = [{"epochs": 1, "rank": 2, "lora_rank": 2, "loss": loss} for loss in ("mse", "huber")]
    words = [str(tiny_llama_dir), str(tmp_path / "w.parquet"), "--removed", "3", "--block", "2"]
    words += ["--output", str(output)]
    for arm in arms:
        words += ["--arm", json.dumps(arm)]
    monkeypatch.setattr(sys, "argv", ["steady.py", *words])
    globals_ = runpy.run_path(str(root / "benchmarks/steady.py"), run_name="__main__")
    found = json.loads(output.read_text())
    assert [arm["settings"] for arm in found] == arms
    assert [len(arm["steps"]) for arm in found] == [1, 1]
    assert found[0]["before"] == pytest.approx(found[1]["before"])  # whatever the loss
    rows: list = []
    teacher = torch.ones(1, 9, 4)
    teacher[0, 0] = 1000
    student = teacher.clone()
    student[0, 0, 0] += 3
    student[0, 1, 0] += 1
    globals_["watched"](torch.nn.functional.mse_loss, rows)(student, teacher)
    (row,) = rows
    expected = {"mse": 10 / 36, "ordinary_mse": 1 / 32, "massive_share": 0.9, "massive_tokens": 1}
    assert row == pytest.approx(expected)
