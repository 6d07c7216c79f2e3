"""Paired differences over seeds."""

import pandas as pd
import pytest
from scipy import stats

from fusegpt.errors import ConfigError, UnknownNameError
from fusegpt.reports.collect import collect
from fusegpt.reports.seeds import over_seeds, seeds_text
from fusegpt.results.contents import parse_contents


@pytest.fixture
def frame(results, experiment):
    """Three seeds: fusegpt is below finetune by 1, 2 and 3; both follow the seed."""
    one = collect(parse_contents(experiment), results)
    seeds = []
    for seed, gap in enumerate((1.0, 2.0, 3.0)):
        copy = one.assign(seed=seed)
        base = 50.0 + 10 * seed
        copy.loc[copy["recipe"] == "macro_influence_finetune", "value"] = base
        copy.loc[copy["recipe"] == "fusegpt", "value"] = base - gap
        seeds.append(copy[(copy["recipe"] != "dense") | (seed == 0)])
    return pd.concat(seeds, ignore_index=True)


def test_the_interval_is_that_of_a_paired_t_test(frame):
    found = over_seeds(frame, "macro_influence_finetune")
    fusion = next(one for one in found if one.recipe == "fusegpt")
    values = [49.0, 58.0, 67.0], [50.0, 60.0, 70.0]
    expected = stats.ttest_rel(*values).confidence_interval(0.95)
    assert (fusion.low, fusion.high) == pytest.approx(tuple(expected))
    assert fusion.difference == pytest.approx(-2)
    assert (fusion.seeds, fusion.mean, fusion.better) == (3, 58.0, None)


def test_a_difference_beyond_the_spread_is_better_or_worse(frame):
    found = over_seeds(frame, "macro_influence_finetune", confidence=0.5)
    assert next(one for one in found if one.recipe == "fusegpt").better is True
    turned = over_seeds(frame, "fusegpt", confidence=0.5)
    assert next(one for one in turned if one.recipe.endswith("finetune")).better is False
    assert "dense" not in {one.recipe for one in found}
    lines = seeds_text(found, "macro_influence_finetune").splitlines()
    assert len(lines) == 2 + len(found) and "better" in "".join(lines)


def test_what_cannot_be_compared_is_said(frame):
    with pytest.raises(UnknownNameError, match="did you mean 'fusegpt'"):
        over_seeds(frame, "fusgpt")
    with pytest.raises(ConfigError, match="fusegpt: no recipe has two seeds in common"):
        over_seeds(frame[frame["seed"] == 0], "fusegpt")
