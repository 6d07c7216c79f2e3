"""Targets of an experiment: resolved while the graph is built, and said in the plan."""

from __future__ import annotations

import pytest

from fusegpt.errors import ConfigError
from fusegpt.results.contents import parse_contents
from fusegpt.results.point import Place
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.outlook_text import as_text
from tests.workflow.conftest import ROOT, configuration

RECIPES = ROOT / "config" / "recipes"
SHAPE = {"values": 90, "sides": 60, "width": 4, "rest": 10, "vocab": 50, "total": 600}
"""Four blocks of 100 values, and an embedding of 200."""


def study(*sparsities, **more) -> dict:
    config = configuration()
    config["models"]["tiny"]["shape"] = SHAPE
    config["experiments"]["study"] |= {"sparsities": list(sparsities), **more}
    return config


def plan(config):
    return make_plan(config, RECIPES)


def test_targets_become_steps_beside_sparsities():
    made = plan(study(0.25, {"parameters": 350}, {"blocks": 3}, {"speedup": 2}))

    chain = next(name for name in made.recipes if name.startswith("macro"))
    assert [x.count for x in made.resolved("study", "tiny", chain)] == [3, 1, 3]
    places = [point.place for point in made.points["study"] if point.recipe == chain]
    assert places == [Place.step(1), Place.step(3)]
    shown = [x for x in made.contents("study").shown() if x.point.recipe == chain]
    assert [(x.sparsity, x.asked) for x in shown] == [
        ("0.25", "blocks=3"),
        ("0.75", "parameters=350; speedup=2"),
    ]
    assert parse_contents(made.contents("study").to_json()) == made.contents("study")


def test_a_table_without_targets_is_described_as_before():
    described = plan(study(0.25)).contents("study").to_json()
    assert described["models"] == {"tiny": {"num_blocks": 4, "steps": {"0.25": 1}}}


def test_each_recipe_takes_what_it_needs():
    config = study({"parameters": 400}, recipes=["dense", "macro_influence", "mixed"])
    config["models"]["tiny"]["shape"] = {**SHAPE, "mlp": 60}
    mixed = {"importance": {"metric": "macro_influence"}, "recovery": {"method": "none"}}
    config["recipes"] = {"mixed": {**mixed, "granularity": "mixed"}}
    made = plan(config)

    steps = {point.recipe.partition("-")[0]: point.place.number for point in made.points["study"]}

    assert steps == {"dense": 0, "macro_influence": 2, "mixed": 7}  # of 30 values at least


@pytest.mark.parametrize(
    ("sparsities", "more", "message"),
    [
        (
            [{"parameters": 250}],
            {},
            "experiments.study.sparsities: parameters=250 cannot be met for tiny: recipe"
            " 'macro_influence' can remove 3 of 4 units, which leaves 300 parameters; nearer is ",
        ),
        ([{"parameters": "3X"}], {}, "sparsities.0.parameters: must be an amount such as 100M (k,"),
        ([{"paramters": 3}], {}, "sparsities.0: unknown setting 'paramters'; did you mean 'param"),
        ([{"blocks": 3, "speedup": 2}], {}, "sparsities.0: must name one of parameters, file_s"),
        ([{}], {}, "sparsities.0: must name one of parameters, file_size, memory, speedup, blocks"),
        ([{"memory": "1GB"}], {}, "memory: must come with context, the tokens of a sequence"),
        (["a lot"], {}, "sparsities.0: must be a fraction of units in [0, 1), or a target such as"),
        ([{"blocks": 3}, {"blocks": 3}], {}, "must list each entry once"),
        ([{"blocks": 3}], {"recipes": ["slicegpt"]}, "must be fractions for recipe 'slicegpt', wh"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_one_line(sparsities, more, message):
    with pytest.raises(ConfigError) as caught:
        plan(study(*sparsities, **more))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_a_shape_is_asked_for_one():
    config = study({"parameters": 350})
    del config["models"]["tiny"]["shape"]
    with pytest.raises(ConfigError, match="parameters=350 needs the shape of tiny in its entry"):
        plan(config)
    config["experiments"]["study"]["sparsities"] = [{"blocks": 3}]
    assert max(point.place.number for point in plan(config).points["study"]) == 1


def test_the_outlook_says_how_each_was_resolved():
    row = {"model": "tiny", "recipe": "mine-1", "target": "blocks=3", "count": 1, "units": 4}
    notes = {
        **{"jobs": {}, "runs": [], "device": "cpu", "seconds": 0, "not_measured": {}},
        "targets": [{"experiment": "study", **row, "left": "which leaves 3 blocks"}],
    }
    assert "tiny  mine-1  blocks=3: 1 of 4 units go, which leaves 3 blocks" in as_text(notes)
