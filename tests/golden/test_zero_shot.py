import json
from pathlib import Path

import pytest

from fusegpt.evaluation.settings import FIVE

GOLDEN = json.loads(Path(__file__).with_name("zero_shot.json").read_text())

pytestmark = [pytest.mark.shared_data, pytest.mark.index, pytest.mark.slow]


def test_dense_smollm_has_the_accuracies_of_lm_evals_command_line(tmp_path, shared_data):
    """The two tasks with short items; all five take minutes on a CPU."""
    from fusegpt.data.sources import fetch, find_entry
    from fusegpt.evaluation.settings import ZeroShot
    from fusegpt.evaluation.zero_shot import plan, zero_shot
    from fusegpt.models.checkpoints.load import load

    fetch(find_entry("smollm2-135m"), tmp_path / "model")
    tasks = ["piqa", "winogrande"]
    entries = {
        task: {"splits": {"validation": str(shared_data(f"{task}/validation.parquet"))}}
        for task in tasks
    }
    planned = plan(tmp_path / "model", entries, ZeroShot(tasks=tasks, limit=GOLDEN["limit"]))
    model = load(tmp_path / "model", dtype=GOLDEN["dtype"])
    for part in planned.parts:
        metrics = zero_shot(model, part)["metrics"]
        expected = {key: pytest.approx(x) for key, x in GOLDEN["values"][part.name].items()}
        assert {key: entry["value"] for key, entry in metrics.items()} == expected


def test_the_published_development_values_are_met():
    assert set(GOLDEN["values"]) == set(FIVE)
    assert GOLDEN["values"]["piqa"] == {"acc": 0.68, "acc_norm": 0.68}
    assert GOLDEN["values"]["arc_easy"] == {"acc": 0.46, "acc_norm": 0.44}
