"""Methods on a device that refuses what a GPU refuses, where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_no_method_mixes_tensors_of_two_devices():
    words = [sys.executable, "-m", "tests.elsewhere"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["mixed"] == "" and len(found) > 25
    assert {name: error for name, error in found.items() if error} == {}
