"""What the work takes, as counted, does not grow; whoever makes it grow is told what did."""

import importlib.util
import json
import sys

import pytest


@pytest.fixture
def counts(root, tmp_path, monkeypatch):
    """The benchmark as a module; it writes to ``output``."""
    spec = importlib.util.spec_from_file_location("counts", root / "benchmarks/counts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.output = tmp_path / "counts.json"
    monkeypatch.setattr(sys, "argv", ["counts.py", "--output", str(module.output)])
    return module


def test_nothing_that_is_counted_has_grown(counts):
    counts.main()
    rows = {row["count"]: row for row in json.loads(counts.output.read_text())}
    assert list(rows) == list(counts.BOUNDS)
    exact = [name for name in rows if "held" not in name]
    assert all(rows[name]["value"] == rows[name]["bound"] for name in exact)
    assert all(row["value"] > 0.85 * row["bound"] for row in rows.values())  # bounds are close


def test_a_count_that_grew_is_named(counts, monkeypatch):
    grown = {**counts.BOUNDS, "block forward passes to score": 169}
    monkeypatch.setattr(counts, "counted", lambda model, folder: grown)
    with pytest.raises(SystemExit, match=r"more than before: block forward passes to score$"):
        counts.main()
