"""Recipes that slice widths in the workflow: sparsity is a wildcard, and there are no steps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from fusegpt.cli import fusegpt_command
from fusegpt.errors import ConfigError
from fusegpt.reports.collect import evaluation_files
from fusegpt.results import layout as at
from fusegpt.results.point import Place, Point
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.garbage import find
from tests.workflow.conftest import ROOT, configuration, verbs

RECIPES = ROOT / "config" / "recipes"


def width_study() -> dict:
    config = configuration()
    study = config["experiments"]["study"]
    study |= {"recipes": ["dense", "slicegpt"], "sparsities": [0.0, 0.25, 0.5]}
    study["settings"] = {
        "calibration": {"corpus": "python_docs", "sequences": 2, "length": 16},
        "recovery": {"rank": 8},
    }
    return config


def plan(config):
    return make_plan(config, RECIPES)


def test_each_sparsity_but_zero_is_a_model_of_its_own():
    made = plan(width_study())

    [recipe] = made.recipes
    assert recipe.startswith("slicegpt-")
    expected = [Point("tiny", recipe, Place.sparsity(text)) for text in ("0.25", "0.5")]
    assert made.points["study"] == [Point.dense("tiny"), *expected]
    assert made.kept == expected
    assert made.evaluated == {point: ["docs", "short"] for point in made.points["study"]}
    assert made.windows_of(recipe, "calibration").sequences == 2


def test_one_experiment_mixes_depth_and_width():
    config = width_study()
    config["experiments"]["study"] |= {"recipes": ["dense", "macro_influence", "slicegpt"]}

    points = plan(config).points["study"]

    assert [(x.recipe.partition("-")[0], x.place.name) for x in points] == [
        ("dense", "step-000"),
        ("macro_influence", "step-001"),
        ("macro_influence", "step-002"),
        ("slicegpt", "sparsity-0.25"),
        ("slicegpt", "sparsity-0.5"),
    ]


def test_the_id_follows_settings_but_no_sparsity():
    config = width_study()
    [first] = plan(config).recipes
    config["experiments"]["study"]["sparsities"] = [0.1]
    [same] = plan(config).recipes
    config["experiments"]["study"]["recipe_settings"] = {
        "slicegpt": {"width": {"slice_head": True}}
    }
    [other] = plan(config).recipes

    assert first == same != other


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("experiments.study.settings.width", {"a": 1}, "recipes.slicegpt.width: unknown setting"),
        ("experiments.study.settings.calibratoin", {}, "did you mean 'calibration'?"),
        ("experiments.study.settings.dtype", "float31", "dtype: must be 'float32'"),
        ("experiments.study.settings.calibration", {"corpus": "wiki"}, "unknown corpus 'wiki'"),
        ("experiments.study.sparsities", [1.0], "in [0, 1), got 1.0"),
        (
            "experiments.study.recipe_settings",
            {"slicegpt": {"width": {"round_interval": 0}}},
            "width.round_interval: must be greater than 0",
        ),
        ("recipes", {"mine": {"width": {"method": "slicegtp"}}}, "did you mean 'slicegpt'?"),
        ("recipes", {"mine": {"width": {}}}, "recipes.mine.width.method: must be given"),
    ],
)
def test_a_fault_is_named_in_one_line(change, path, value, message):
    config = width_study()
    change(config, path, value)
    if path == "recipes":
        config["experiments"]["study"]["recipes"] = ["mine"]

    with pytest.raises(ConfigError) as caught:
        plan(config)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_reads_one_file_per_sparsity_and_the_dense_model():
    made = plan(width_study())
    asked = made.contents("study")

    files = [file.as_posix() for file in evaluation_files(asked, Path("results"))]

    [recipe] = made.recipes
    place = f"results/evaluations/tiny/{recipe}"
    wanted = [f"{place}/sparsity-{s}/{e}.json" for s in ("0.25", "0.5") for e in ("docs", "short")]
    dense = [f"results/evaluations/tiny/dense/step-000/{e}.json" for e in ("docs", "short")]
    assert files == dense + wanted


@pytest.mark.slow
def test_another_sparsity_is_sliced_alone_and_nothing_else_runs_again(project):
    project.config = width_study()
    assert set(verbs(project.started("checkpoints"))) == {"fetch", "sample", "slice"}
    first = verbs(project.started())
    project.study["sparsities"].append(0.75)
    second = verbs(project.started())

    assert first == Counter(load=3, evaluate=6, card=2, table=1, figure=1, report=1)
    assert second == Counter(slice=1, load=1, evaluate=2, card=1, table=1, figure=1, report=1)
    assert project.started() == []


def test_what_no_experiment_names_can_go(tmp_path):
    config = width_study()
    made = plan(config)
    [recipe] = made.recipes
    for sparsity in ("0.25", "0.5"):
        point = Point("tiny", recipe, Place.sparsity(sparsity))
        results = [at.evaluation(point, evaluation=name) for name in ("docs", "short")]
        for file in (at.sliced(point), at.card(point), *results):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    assert find(made, tmp_path) == []
    config["experiments"]["study"]["sparsities"] = [0.25]

    found = find(plan(config), tmp_path)

    names = {entry.path.relative_to(tmp_path).as_posix() for entry in found}
    place = f"tiny/{recipe}/sparsity-0.5"
    evaluations = {f"results/evaluations/{place}/{name}.json" for name in ("docs", "short")}
    assert names == {f"results/slices/{place}", f"results/cards/{place}.md", *evaluations}


@pytest.mark.slow
def test_plan_counts_the_slices(project):
    project.config = width_study()
    project.command()
    arguments = ["plan", str(project.directory / "study.json"), "--directory"]

    done = CliRunner().invoke(fusegpt_command, [*arguments, str(project.directory)])

    assert done.exit_code == 0, done.output
    assert "slice                  2       0" in done.output
    assert "tiny  slicegpt-" in done.output and "sparsities 0.25, 0.5" in done.output
    assert "calibration tokens" in done.output
