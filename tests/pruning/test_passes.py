"""What scoring says of how far it is: its total is the number of passes that it makes."""

import pytest

from fusegpt.importance import METRICS
from fusegpt.models.structure.passes import counting_passes
from fusegpt.pruning import scoring
from fusegpt.pruning.recipe import resolve
from tests import required, tiny

WINDOWS = tiny.ids(4, 10)
RUNNING = [name for name in METRICS if name != "given"]  # which has to be told units, and runs none


@pytest.mark.parametrize("granularity", ["block", "attention"])
@pytest.mark.parametrize("metric", RUNNING)
def test_every_metric_makes_as_many_passes_as_it_says(metric, granularity, monkeypatch):
    paces = []

    class Kept:
        def __init__(self, *arguments):
            self.context = counting_passes(*arguments)

        def __enter__(self):
            paces.append(self.context.__enter__())

        def __exit__(self, *error):
            return self.context.__exit__(*error)

    monkeypatch.setattr(scoring, "counting_passes", Kept)
    importance = {"metric": metric, **required.METRICS.get(metric, {})}
    settings = {"importance": importance, "recovery": {"method": "none"}}
    recipe = resolve("by_hand", settings | {"granularity": granularity, "dtype": "float32"})
    model = tiny.model("llama")
    scoring.score_step(model, recipe, WINDOWS)
    (pace,) = paces
    near = 0.1 if metric == "policy_gradient" else 0  # which says how many it draws on average
    assert pace.total is None or pace.done == pytest.approx(pace.total, rel=near)
