"""A table of what is there, before all of an experiment was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusegpt.reports.tables import read_csv
from fusegpt.results import layout as at
from fusegpt.results.point import Place, Point
from fusegpt.workflow.files import plan_of
from tests.planned import fusegpt, refused
from tests.reports.conftest import evaluation, write, write_start, write_step

RECIPES = {
    "plain": {"importance": {"metric": "macro_influence"}, "recovery": {"method": "none"}},
    "other": {"importance": {"metric": "sleb"}, "recovery": {"method": "none"}},
}
STUDY = {
    "models": ["tiny"],
    "recipes": ["dense", *RECIPES],
    "seeds": [0, 1],
    "sparsities": [0.15, 0.3],
    "evaluations": ["docs", "short"],
    "curves": {"which": {"all": {"1": "plain", "2": "other"}}},
}


class Study:
    """An experiment file on a model of 12 blocks, and the results that a test writes."""

    def __init__(self, directory: Path, **changes: object) -> None:
        self.file = directory / "study.json"
        docs = {"eval": "perplexity", "corpus": "python_docs", "split": "test", "length": 32}
        self.config = {
            "models": {"tiny": {"source": "dir:models/tiny", "num_blocks": 12}},
            "recipes": RECIPES,
            "evaluations": {"docs": docs, "short": {**docs, "windows": 2}},
            "experiments": {"study": {**STUDY, **changes}},
        }
        self.save()
        self.source = at.source.under("results", model="tiny")
        write(self.source, {"kind": "model", "num_blocks": 12})

    def save(self) -> None:
        self.file.write_text(json.dumps(self.config))
        self.plan = plan_of([str(self.file)])

    def run(self, name: str, seed: int = 0) -> str:
        """The steps of a recipe; its id."""
        members = self.plan.members["study"]
        (found,) = (one.id for one in members if (one.name, one.seed) == (name, seed))
        run = Path(at.run_directory(model="tiny", recipe=found))
        write_start(run, self.source)
        for step in range(1, 5):
            write_step(run, step, trained=False, fused=False)
        return found

    def measure(self, recipe: str, step: int, *names: str, **more: object) -> None:
        """Results of a model."""
        point = Point.on("tiny", recipe, Place.step(step))
        for name in names:
            entry = self.plan.evaluations[name]
            said = {"eval": entry.eval, "settings": entry.settings, "dtype": entry.dtype}
            file = Path(at.evaluation(point, evaluation=name))
            write(file, {**evaluation(step, 20.0 + step), **said, **more})


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Study(tmp_path)


def test_what_is_there_becomes_a_table_a_figure_and_a_page_that_say_what_is_missing(study):
    study.measure("dense", 0, "docs")
    first, second = study.run("plain"), study.run("plain", seed=1)
    study.measure(first, 2, "docs", "short")
    study.measure(first, 4, "docs")
    study.measure(second, 2, "docs")

    said = fusegpt("table", study.file, "--partial", "--output", "there.csv")

    assert "not whole    13 of 18 results are missing" in said
    assert "missing      results/evaluations/tiny/dense/step-000/short.json: not there" in said
    assert "missing      8 more, see there.json" in said
    rows = read_csv("there.csv")
    assert len(rows) == 5 and set(rows["recipe"]) == {"dense", "plain"}
    record = json.loads(Path("there.json").read_text())
    assert len(record["missing"]) == 13 and len(record["parents"]) == 5
    assert "13 of 18 results are missing" in fusegpt("table", "--show", "there.csv")
    fusegpt("figure", "--table", "there.csv", "--output", "there.svg")
    assert "13 of 18 results are missing" in Path("there.svg").read_text()
    fusegpt("report", "--table", "there.csv", "--figure", "there.svg", "--output", "there.html")
    page = Path("there.html").read_text()
    assert "This table is not whole: 13 of 18 results are missing" in page
    assert "tiny/dense/step-000/short.json: not there" in page


def test_without_the_option_a_missing_result_is_refused_and_nothing_is_written(study):
    study.measure("dense", 0, "docs", "short")

    said = refused("table", study.file, "--output", "whole.csv")

    assert said.endswith(
        "step-002/docs.json: not there, the first of 16 results that are missing; --partial takes"
        " what is there"
    )
    assert not Path("whole.csv").exists()


def test_what_was_measured_otherwise_is_missing_too(study):
    study.measure("dense", 0, "docs", "short")
    run = study.run("plain")
    parent = {"path": f"../../../../runs/tiny/{run}/step-002/manifest.json", "sha256": "0" * 64}
    study.measure(run, 2, "docs", parent=parent)
    study.measure(run, 4, "docs")
    Path(at.scores(Point("tiny", run, Place.step(3)))).unlink()
    study.config["evaluations"]["short"]["windows"] = 3
    study.save()

    fusegpt("table", study.file, "--partial", "--output", "there.csv")

    record = json.loads(Path("there.json").read_text())
    missing = {Path(file): why for file, why in record["missing"].items()}
    folder = Path("results/evaluations/tiny")
    assert missing[folder / "dense/step-000/short.json"] == "measured with other settings"
    assert "checksum must be" in missing[folder / run / "step-002/docs.json"]
    assert "step-003/scores.json: cannot be read" in missing[folder / run / "step-004/docs.json"]
    assert read_csv("there.csv")["recipe"].tolist() == ["dense"]
    fusegpt("figure", "--table", "there.csv", "--output", "there.svg")
    fusegpt("report", "--table", "there.csv", "--output", "there.html")


def test_of_chains_that_go_on_only_those_at_their_end_are_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    until = {"evaluation": "docs", "at_most": 22}
    study = Study(tmp_path, seeds=[0], sparsities=None, until=until)
    study.measure("dense", 0, "docs", "short")
    ended, going = study.run("plain"), study.run("other")
    for step in (1, 2, 3):
        study.measure(ended, step, "docs")
    study.measure(ended, 2, "short")
    study.measure(going, 1, "docs")

    said = fusegpt("table", study.file, "--partial", "--output", "there.csv")

    rows = read_csv("there.csv")
    assert rows["recipe"].tolist() == ["dense", "dense", "plain", "plain"]
    assert set(rows[rows["recipe"] == "plain"]["asked"]) == {"docs <= 22"}
    waits = f"results/evaluations/tiny/{going}/step-002/docs.json: not there, so where its chain"
    assert waits in said and "not whole    1 of 5 results are missing" in said


def test_a_table_by_name_lies_elsewhere_and_shows_one_experiment(study):
    study.measure("dense", 0, "docs")
    said = refused("table", study.file, "--partial", "--output", "results/tables/study.csv")
    assert "must not lie among the workflow's tables" in said
    assert not Path("results/tables/study.csv").exists()
    study.config["experiments"]["more"] = {**STUDY, "recipes": ["dense"], "curves": {}}
    study.save()
    said = refused("table", study.file, "--partial", "--output", "there.csv")
    assert said == "--name: must be one of study, more, got none"
    fusegpt("table", study.file, "--partial", "--name", "more", "--output", "there.csv")
    assert read_csv("there.csv")["experiment"].tolist() == ["more"]


def test_a_table_of_nothing_is_refused(study):
    said = refused("table", study.file, "--partial", "--output", "there.csv")
    assert said == "study: must have one result at least, got none; measure something first"
    assert not Path("there.csv").exists() and not Path("there.json").exists()


@pytest.mark.parametrize(
    "more",
    [
        ("--partial",),
        ("study.json",),
        ("study.json", "--experiment", "{}", "--output", "a.csv"),
        ("study.json", "--show", "study.json"),
        ("study.json", "--against", "plain", "--output", "a.csv"),
        ("--name", "study", "--experiment", "{}", "--output", "a.csv"),
    ],
)
def test_options_of_two_ways_to_make_a_table_do_not_mix(study, more):
    assert "give either --show" in fusegpt("table", *more, code=2)
