"""The benchmark of approximate choices: its rate and its counts on a part made by hand."""

import json
import runpy
import sys

from fusegpt.results.base import write
from fusegpt.results.shards import PartialScores
from fusegpt.units import Unit


def test_it_counts_the_orders_in_which_the_choice_is_exact(root, tmp_path, monkeypatch):
    others = [0.7, 1.0, 0.6, 0.2]
    cosines = [[0.7, 0.1, 0.9, 0.2], others, others, others]  # block 1 is best, but in the first
    part = {
        **{"kind": "partial_scores", "shard": 1, "shards": 1, "step": 1, "run": 1},
        **{"metric": "macro_influence", "units": [Unit("block", i) for i in range(4)]},
        **{"able": [0, 1, 2, 3], "batches": [{"weight": 1, "values": row} for row in cosines]},
    }
    write(tmp_path / "part.json", PartialScores.model_validate(part))
    output = tmp_path / "found.json"
    words = [str(tmp_path / "part.json"), "--share", "0.25", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["approximate.py", *words])

    runpy.run_path(str(root / "benchmarks/approximate.py"), run_name="__main__")

    approximate, exact = json.loads(output.read_text())["rows"]
    assert exact["exact"] == 1 and exact["passes"] == exact["passes_exact"] == 4 * 10
    assert 0.45 < approximate["exact"] < 0.55  # where the odd batch is not among the first two
    assert approximate["saved"] > 1
