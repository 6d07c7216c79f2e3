"""Approximate choices: who is left was scored exactly; what is counted; what is refused."""

import pytest
import torch

from fusegpt.errors import ConfigError
from fusegpt.importance.halving import halve
from fusegpt.importance.sums import Sums, mean
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.scoring import score_step
from tests import tiny


def recipe(approximate, metric="macro_influence", **more):
    importance = {"metric": metric, "approximate": approximate}
    calibration = {"batch_size": 2}
    settings = {"importance": importance, "calibration": calibration, "dtype": "float32", **more}
    return resolve("mine", {"recovery": {"method": "none"}, **settings})


@pytest.mark.parametrize("metric", ["macro_influence", "sleb"])
def test_who_is_left_has_the_exact_score_and_fewer_blocks_run(metric, caplog):
    model, windows = tiny.model("llama"), tiny.ids(8, 10)
    passes = []
    for block in model.blocks:
        block.register_forward_hook(lambda *_: passes.append(1))
    exact = score_step(model, recipe(0, metric), windows)
    whole = len(passes)

    with caplog.at_level("INFO", logger="fusegpt"):
        found = score_step(model, recipe(0.25, metric), windows)

    assert len(passes) - whole < whole
    known = {row.unit: row.score for row in exact.units}
    assert len(found.units) == 2 and found.selected in {row.unit for row in found.units}
    assert all(row.score == known[row.unit] for row in found.units)
    assert found.settings == {"approximate": 0.25}
    assert "approximately: units on windows: 6 on 2, 3 on 4, 2 on 8" in caplog.text


def test_a_share_that_is_all_of_the_windows_is_exact():
    model, windows = tiny.model("llama"), tiny.ids(2, 10)
    exact, found = (score_step(model, recipe(share), windows) for share in (0, 0.5))
    assert [row.to_json() for row in found.units] == [row.to_json() for row in exact.units]


def test_the_exact_winner_is_lost_only_where_it_looks_bad_at_first():
    table = torch.tensor([[3.0, 9.0, 1.0], [3.0, 0.0, 4.0], [3.0, 0.0, 4.0], [3.0, 0.0, 4.0]])

    def chosen(rows):
        def measure(first, end, units):
            sums = Sums()
            for row in rows[first:end]:
                sums.add(row.double()[units].unbind(), 1)
            return sums

        left, scores = halve(measure, mean, [0, 1, 2], len(rows), 0.25)
        return left, left[int(scores.argmin())]

    assert chosen(table.flip(0)) == ([1], 1)  # which is the exact one
    assert chosen(table) == ([2], 2)  # which is not


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"selection": "one_shot"}, "selection 'one_shot'"),
        ({"rerank": {"candidates": 2}, "recovery": {"method": "fusion"}}, "rerank"),
    ],
)
def test_what_needs_more_than_the_lowest_score_is_refused(more, what):
    with pytest.raises(ConfigError, match=f"approximate: must be 0 with {what}, got 0.5; only"):
        recipe(0.5, **more)


def test_exact_recipes_keep_their_text():
    plain = {"importance": {"metric": "sleb"}, "recovery": {"method": "none"}}
    assert "approximate" not in resolve("mine", plain).to_json()["importance"]
