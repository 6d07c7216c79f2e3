"""A measured value at a single sparsity: recipe by recipe, the best first."""

from __future__ import annotations

import pandas as pd
import pytest

from fusegpt.reports.collect import collect
from fusegpt.reports.frontier import frontier_chart, speed_axis
from fusegpt.reports.quality import quality_chart
from fusegpt.results.contents import parse_contents
from tests.reports.conftest import RECIPES

LABEL = "docs perplexity"


@pytest.fixture
def one(results, experiment):
    """The rows of one sparsity, and the dense model's."""
    frame = collect(parse_contents(experiment), results)
    return frame[frame["sparsity"].isin([0, frame["sparsity"].max()])]


def drawn(frame: pd.DataFrame, **changed) -> tuple[list[str], dict[str, dict]]:
    """The recipes from top to bottom, and the first layer of each mark or shape."""
    layers = quality_chart(frame.assign(**changed), "tiny", LABEL).chart.to_dict()["layer"]
    marks: dict[str, dict] = {}
    for layer in layers:
        marks.setdefault(layer["mark"].get("shape", layer["mark"]["type"]), layer["encoding"])
    return marks["point"]["y"]["sort"], marks


def test_the_best_stands_first_whichever_way_is_better(one):
    pruned = one[one["recipe"] != "dense"].sort_values("value")
    assert drawn(one)[0] == list(pruned["recipe"]) and len(pruned) == len(RECIPES)
    assert drawn(one, higher_is_better=True)[0] == list(pruned["recipe"])[::-1]


def test_words_and_height_follow_the_recipes(one, results, experiment):
    ranking = quality_chart(one, "tiny", LABEL)
    assert ranking.words == "docs perplexity at 30%, the best first."
    assert ranking.height(300) == 40 * len(RECIPES)
    lines = quality_chart(collect(parse_contents(experiment), results), "tiny", LABEL)
    assert lines.words == "docs perplexity over sparsity; every line starts at the dense model."
    assert lines.height(300) == 300


def test_seeds_are_points_and_their_mean_is_a_stroke_with_the_number(one):
    assert "tick" not in drawn(one)[1]
    twice = pd.concat([one, one.assign(seed=1, value=one["value"] + 2)])
    marks = drawn(twice)[1]
    assert marks["tick"]["x"]["aggregate"] == "mean"
    number = [marks["text"][channel]["aggregate"] for channel in ("x", "text")]
    assert number == ["max", "mean"]
    assert quality_chart(twice, "tiny", LABEL).words.endswith("a stroke is the mean of the seeds.")


def test_what_lies_far_beyond_is_a_triangle_without_a_number(one):
    far = one.assign(value=one["value"].where(one["recipe"] != "fusegpt", 1e6))
    names, marks = drawn(far)
    assert names[-1] == "fusegpt" and marks["triangle-right"]["x"]["datum"] < 1e3


def test_the_dense_model_is_marked_beside_the_points_and_crosses_no_name(one):
    marks = drawn(one)[1]
    assert "rule" not in marks and marks["point"]["x"]["axis"]["grid"] is False
    dense = one.loc[one["recipe"] == "dense", "value"].iloc[0]
    assert marks["stroke"]["x"]["datum"] == dense and "y" in marks["stroke"]


def test_numbers_at_a_logarithmic_axis_are_few_and_lie_on_it(one):
    wide = drawn(one.assign(value=[22.0, *range(80, 80 + len(one) - 2), 190.0]))[1]["point"]["x"]
    low, high = wide["scale"]["domain"]
    assert wide["axis"]["values"] == [15.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0, 200.0]
    assert low < 15 and 200 < high < 300  # room for the number beside the last point


def test_models_of_one_size_have_no_frontier(one):
    pruned = one[one["recipe"] != "dense"]
    assert frontier_chart(pruned, LABEL, speed_axis(pruned)) is None
    assert frontier_chart(one, LABEL, speed_axis(one)) is not None
