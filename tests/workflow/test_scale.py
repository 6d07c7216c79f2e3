"""The benchmark of the graph itself: it runs, and a sweep of 972 results is planned in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_large_sweep_is_planned_within_its_limit(tmp_path):
    output = tmp_path / "graph.json"
    command = [sys.executable, str(ROOT / "benchmarks/graph.py"), "--models", "1"]
    done = subprocess.run(
        [*command, "--repeats", "1", "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    steps, models = 16, 8 * 10 + 1  # of each recipe, and what is measured
    assert 8 * steps * 2 + models < result["jobs"] < models * 12
    assert result["cold"][0]["processor"] < 8
