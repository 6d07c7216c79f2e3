"""The benchmark of stored answers on a tiny model: equal losses, as many bytes as promised."""

import json
import runpy
import sys

import pytest


def test_stored_answers_teach_what_the_teacher_says(root, tiny_llama_dir, tmp_path, monkeypatch):
    output = tmp_path / "finish.json"
    sizes = ["--windows", "4", "--length", "12", "--top-k", "16"]
    words = [str(tiny_llama_dir), "--output", str(output), *sizes]
    monkeypatch.setattr(sys, "argv", ["finish.py", *words])

    runpy.run_path(str(root / "benchmarks/finish.py"), run_name="__main__")

    found = json.loads(output.read_text())
    assert len(found["seconds_stored"]) == len(found["seconds_live"]) == 2
    headers = 3 * 128 / (4 * 12)
    assert found["bytes_per_token"] == pytest.approx((16 * 6 + 4) * 11 / 12 + headers, abs=0.1)
