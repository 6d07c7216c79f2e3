"""The benchmark of a CPU in a tiny shape: its arms agree."""

import json
import runpy
import sys

import pytest


@pytest.mark.slow
def test_arms_agree_and_rates_are_positive(root, tmp_path, monkeypatch):
    output = tmp_path / "cpu.json"
    monkeypatch.syspath_prepend(str(root / "benchmarks"))  # as for a program that is run
    monkeypatch.setattr(sys, "argv", ["cpu.py", "--tiny", "--output", str(output)])
    runpy.run_path(str(root / "benchmarks/cpu.py"), run_name="__main__")
    found = json.loads(output.read_text())
    assert found["scoring"]["one_dnn_difference"] < 1e-5 and found["scoring"]["same_choice"]
    assert found["scoring"]["plain_over_shared"]["bound"] == pytest.approx(8 / 5)
    assert set(found["linear"]) == {"1 parts, 1 donors", "1 parts, 4 donors", "8 parts, 1 donors"}
    assert all(rate > 0 for rate in found["products_gflops_per_second"].values())
