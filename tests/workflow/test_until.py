"""Chains that an evaluation ends."""

from __future__ import annotations

import json

import pytest

from fusegpt.errors import ConfigError
from fusegpt.results import layout as at
from fusegpt.results.point import Place, Point
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.outlook import outlook
from fusegpt.workflow.outlook_text import as_text
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.together import together
from fusegpt.workflow.until import Chains, not_there
from tests.planned import fork_summaries
from tests.workflow.conftest import ROOT, configuration, verbs
from tests.workflow.stub import measured

RECIPES = ROOT / "config" / "recipes"


def bounded(config: dict, **until) -> dict:
    """The study with ``until`` in place of sparsities."""
    del config["experiments"]["study"]["sparsities"]
    config["experiments"]["study"]["until"] = {"evaluation": "docs", **until}
    return config


def plan(**until) -> Plan:
    return make_plan(bounded(configuration(), **until), RECIPES)


def add(results, point: Point) -> None:
    """Write what the stub would: a perplexity of 10 and one more for each step."""
    file = at.evaluation.under(results, point, evaluation="docs")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(measured("", file)))


def test_a_chain_stops_at_the_first_step_that_breaks_its_bound_and_goes_on_from_there(
    project, monkeypatch
):
    fork_summaries(monkeypatch)
    bounded(project.config, at_most=11)
    started = project.started()

    assert verbs(started)["fuse"] == 4  # two recipes; step 2 breaks the bound
    others = [line for line in started if line.startswith("evaluate") and "short" in line]
    assert {line.split("/")[-2] for line in others} == {"step-000", "step-001"}
    assert all("step-001" in line for line in started if line.split()[0] in ("merge", "card"))

    project.study["until"]["at_most"] = 12
    made = make_plan(project.config, RECIPES)
    notes = outlook(made, project.config, project.directory, "cpu")
    assert notes["jobs"]["fuse"] == {"to_run": 2, "there": 4}  # a fourth step is not known yet
    said = "docs <= 12: at most 3 of 4 units go, measured: 10 after 0, 11 after 1, 12 after 2"
    assert said in as_text(notes)

    started = project.started()

    steps = {line.split("/")[-1] for line in started if line.startswith("fuse")}
    assert steps == {"step-003"}
    others = [line for line in started if line.startswith("evaluate") and "short" in line]
    assert {line.split("/")[-2] for line in others} == {"step-002"}

    project.study["until"]["at_most"] = 9.5
    done = project.snakemake()
    assert done.returncode == 1 and done.stderr.rstrip().endswith(
        "experiments.study.until: docs <= 9.5 must hold for the dense model, tiny has 10; give a"
        " bound beyond that"
    )


def test_what_is_known_grows_with_the_results(tmp_path, monkeypatch):
    made, results = plan(at_most=11.5), tmp_path / "results"
    chains = Chains(made, not_there(results), results=results)
    one, other = sorted(made.recipes)
    assert chains.waiting("study") == [at.evaluation(Point.dense("tiny"), evaluation="docs")]

    add(results, Point.dense("tiny"))
    for step in (1, 2):
        add(results, Point("tiny", one, Place.step(step)))

    first = at.evaluation(Point("tiny", other, Place.step(1)), evaluation="docs")
    assert chains.waiting("study") == [first]
    assert chains.known().points["study"] == [Point.dense("tiny")]  # the recipe dense alone
    (ended, open_one) = (chains.of("study")["tiny", name] for name in (one, other))
    assert (ended.count, ended.values, ended.waits_for) == (1, (10.0, 11.0, 12.0), None)
    assert (open_one.count, open_one.waits_for) == (0, first)
    monkeypatch.setattr("fusegpt.workflow.outlook.jobs", lambda *_: [])
    text = as_text(outlook(made, {}, tmp_path, "cpu"))
    assert f"{one}  1 steps" in text and f"{other}  at most 3 steps" in text
    assert "\njobs and time are those known by now" in text
    steps = {
        ahead: {p.recipe: p.place.number for p in chains.known(ahead=ahead).points["study"]}
        for ahead in ("next", "most")
    }
    assert steps == {"next": {"dense": 0, one: 1, other: 1}, "most": {"dense": 0, one: 1, other: 3}}

    for step in (1, 2):
        add(results, Point("tiny", other, Place.step(step)))

    known = chains.known()
    assert chains.waiting("study") == []
    shown = [x for x in known.contents("study").shown() if not x.point.is_dense]
    assert [(x.point.place.number, x.asked) for x in shown] == [(1, "docs <= 11.5")] * 2
    assert len(chains.measured("study")) == 5


def test_everything_that_may_be_reached_can_be_asked_for_and_the_bounds_value_stands_alone():
    made = plan(at_most=11, steps=2)
    assert {point.place.number for point in made.points["study"]} == {0, 1, 2}
    sets = {one.evaluations: one.decides for one in together(made)}
    assert sets == {("docs",): True, ("short",): False}


@pytest.mark.parametrize(
    ("until", "more", "message"),
    [
        ({"at_most": 9, "evaluation": "dosc"}, {}, "until.evaluation: unknown evaluation of this"),
        ({"at_most": 9, "at_least": 1}, {}, "until: must give one of at_most and at_least, got 2"),
        ({}, {}, "until: must give one of at_most and at_least, got 0"),
        (
            {"at_least": 9},
            {},
            "until: must be at_most for 'docs', where lower is better, got docs >= 9",
        ),
        (
            {"at_most": 0.5, "evaluation": "tasks"},
            {},
            "until: must be at_least for 'tasks', where higher is better, got tasks <= 0.5",
        ),
        (
            {"at_least": 2, "evaluation": "fast"},
            {},
            "until.evaluation: must measure what a model is worth, 'fast' measures what it costs",
        ),
        (
            {"at_most": 9},
            {"recipes": ["slicegpt"]},
            "until: must be for recipes that remove unit after unit, 'slicegpt' slices widths;",
        ),
        (
            {"at_most": 9},
            {"settings": {"keep_pattern": True}},
            "'macro_influence' removes whole periods (keep_pattern); give sparsities in an",
        ),
        ({"at_most": 9}, {"sparsities": [0.5]}, "must have one of sparsities and until, got both"),
        ({"at_most": 9}, {"until": None}, "must have one of sparsities and until, got neither"),
    ],
)
def test_what_cannot_end_a_chain_is_refused_in_one_line(until, more, message):
    config = bounded(configuration(), **until)
    config["evaluations"] |= {"tasks": {"eval": "zero_shot", "tasks": ["piqa"]}}
    config["evaluations"] |= {"fast": {"eval": "speed"}}
    study = config["experiments"]["study"]
    study["evaluations"] = ["docs", "tasks", "fast"]
    study |= more
    with pytest.raises(ConfigError) as caught:
        make_plan(config, RECIPES)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("experiments.study")
