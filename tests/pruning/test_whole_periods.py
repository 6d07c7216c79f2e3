"""``keep_pattern``: after whole periods, kinds are what programs compute from a block's number."""

from __future__ import annotations

import pytest

from fusegpt.config import builtin_config_dir
from fusegpt.data.kinds import Pattern, pattern_of
from fusegpt.errors import ConfigError
from fusegpt.models.structure.kinds import off_formula
from fusegpt.pruning.loop import prune
from fusegpt.pruning.publish import publish
from fusegpt.pruning.recipe import load_recipe, resolve
from fusegpt.pruning.scoring import score_step
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.patterns import check_patterns
from tests import tiny

SMALL = {"dtype": "float32", "recovery": {"method": "none"}, "keep_pattern": True}


def recipe(**more):
    return resolve("mine", {"importance": {"metric": "macro_influence"}, **SMALL, **more})


def smollm3(blocks=12):
    return tiny.model("smollm3", num_hidden_layers=blocks)


def cut(model, chosen, count):
    prune(model, chosen, count, tiny.ids(2, 8))
    return model


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"selection": "one_shot"},
        {"importance": {"metric": "block_influence"}, "selection": "contiguous"},
        {"importance": {"metric": "macro_influence", "protect_first": 1, "protect": [7]}},
        {"importance": {"metric": "random"}, "seed": 3},
    ],
    ids=["iterative", "one_shot", "contiguous", "protected", "random"],
)
def test_whole_periods_go_and_the_formula_holds(more):
    count = 4 if "protect" in str(more) else 8
    model = cut(smollm3(), recipe(**more), count)
    assert len(model.kept) == 12 - count
    assert off_formula(model.text_config) == []


def test_without_it_the_formula_breaks():
    model = cut(smollm3(), recipe(keep_pattern=False), 4)
    assert off_formula(model.text_config) == ["no_rope_layers"]


def test_each_step_takes_the_lowest_score_that_still_completes_a_period():
    model, chosen, plain = smollm3(), recipe(), recipe(keep_pattern=False)
    windows = tiny.ids(2, 8)
    scores = score_step(model, plain, windows)
    first = score_step(model, chosen, windows)
    assert first.selected == scores.selected  # any block lies in some period
    cut_one = prune(smollm3(), chosen, 4, windows)
    offered = [{row.unit.index for row in step.scores.units} for step in cut_one]
    assert all(step.unit.index in units for step, units in zip(cut_one, offered, strict=True))
    assert len(offered[3]) < len(offered[0]) == 12


@pytest.mark.parametrize(
    "count, near", [(3, r"the nearest are 4 \(sparsity 0.333\)$"), (6, "4 .* or 8 ")]
)
def test_other_numbers_are_refused_before_anything_is_scored(count, near):
    with pytest.raises(ConfigError, match=rf"whole periods of 4 blocks, got {count} of 12.*{near}"):
        cut(smollm3(), recipe(), count)


def test_a_begun_period_is_not_published(tmp_path):
    model = smollm3()
    cut(model, recipe(keep_pattern=False), 3)
    with pytest.raises(ConfigError, match="whole periods of 4 blocks, got 3 of 12"):
        publish(model, recipe(), [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "family, options, message",
    [
        ("llama", {}, "must repeat by a formula of their number, and do not"),
        ("gemma3_text_default", {}, "no period of 6 blocks can go as a whole"),
    ],
)
def test_models_without_such_a_pattern_are_refused(family, options, message):
    with pytest.raises(ConfigError, match=message):
        score_step(tiny.model(family, **options), recipe(), tiny.ids(2, 8))


def test_runs_are_whole_periods_or_the_last_blocks():
    contiguous = {"importance": {"metric": "block_influence"}, "selection": "contiguous"}
    model = cut(smollm3(), recipe(**contiguous), 3)
    assert model.kept == list(range(9))
    contiguous["importance"] = {"metric": "block_influence", "protect_last": 1}
    with pytest.raises(ConfigError, match="whole periods of 4 blocks, or the last ones"):
        cut(smollm3(), recipe(**contiguous), 3)


def test_sublayers_have_no_such_pattern():
    with pytest.raises(ConfigError, match="keep_pattern: is for whole blocks"):
        recipe(granularity="attention")


def test_recipes_without_it_do_not_say_so():
    assert "keep_pattern" not in load_recipe("fusegpt").to_json()
    chosen = load_recipe("fusegpt", {"keep_pattern": True})
    settings = chosen.to_json()
    assert resolve(settings.pop("name"), settings) == chosen != load_recipe("fusegpt")


@pytest.mark.parametrize("asked", [0.25, {"blocks": 9}])
def test_the_graph_refuses_what_a_model_that_is_here_cannot_give(tmp_path, asked):
    smollm3().module.config.save_pretrained(tmp_path / "model")
    plan = make_plan(
        {
            "models": {"mine": {"source": f"dir:{tmp_path / 'model'}", "num_blocks": 12}},
            "recipes": {"kept": {"importance": {"metric": "sleb"}, **SMALL}},
            "experiments": {
                "e": {
                    "models": ["mine"],
                    "recipes": ["kept"],
                    "sparsities": [asked],
                    "evaluations": ["wikitext2"],
                }
            },
            "evaluations": {"wikitext2": {"eval": "perplexity"}},
        },
        builtin_config_dir() / "recipes",
    )
    with pytest.raises(ConfigError, match="got 3 of 12; the nearest are 4"):
        check_patterns(plan, tmp_path)


def test_a_pattern_says_what_can_be_completed():
    pattern = Pattern(("x",), 3, tuple((kind,) for kind in "aab" * 8))
    kinds = [(kind,) for kind in "aabaab"]
    assert pattern.fits(kinds) and not pattern.fits(kinds[1:])
    every = range(6)
    assert pattern.completes(kinds[1:], range(5), 2)
    assert not pattern.completes(kinds[1:], range(5), 1)
    assert not pattern.completes(kinds, [0, 1], 3)
    assert pattern.completes(kinds, every, 3)
    assert pattern_of(smollm3().text_config).period == 4
