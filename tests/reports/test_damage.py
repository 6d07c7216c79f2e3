"""A damaged record ends a report in one line that names file and field."""

from __future__ import annotations

import json

import pytest

from fusegpt.cli import fusegpt_command, run
from tests.quick import slow
from tests.reports.conftest import EXPERIMENT, RECIPES, SLICED, make_results, write_checkpoint

RUN = f"runs/tiny/{RECIPES['fusegpt']}/step-004"
CHECKPOINT = f"checkpoints/tiny/{RECIPES['fusegpt']}/step-004/fusegpt.json"
SLICE = f"slices/tiny/{RECIPES['fusegpt']}/sparsity-0.3/fusegpt.json"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results with their table, and a record of every kind that a report reads."""
    folder = make_results(tmp_path_factory.mktemp("damage"))
    write_checkpoint(folder / CHECKPOINT, finish={"seconds": 1.0})
    write_checkpoint(folder / SLICE, **SLICED)
    assert run(fusegpt_command, table(folder)) == 0
    record = json.loads((folder / "tables/hand.json").read_text())
    del record["digest"]  # with it, every damage would be told alike
    (folder / "tables/hand.json").write_text(json.dumps(record))
    return folder


def table(folder):
    asked = ["--experiment", json.dumps(EXPERIMENT), "--results", str(folder)]
    return ["table", *asked, "--output", str(folder / "tables/hand.csv")]


def page(folder):
    asked = ["--table", str(folder / "tables/hand.csv"), "--results", str(folder)]
    return ["report", *asked, "--output", str(folder / "report.html")]


@pytest.mark.parametrize("damage", [slow("[]"), "without", "wrong"])
@pytest.mark.parametrize(
    ("verb", "file", "field"),
    [
        (table, f"{RUN}/manifest.json", "unit"),
        (table, f"{RUN}/scores.json", "units"),
        (table, CHECKPOINT, "kept"),
        (table, "evaluations/tiny/dense/step-000/docs.json", "rows"),
        (page, f"{RUN}/manifest.json", "unit"),
        (page, f"{RUN}/training.json", "rows"),
        (page, CHECKPOINT, "num_blocks"),
        (page, SLICE, "sparsity"),
        (page, "evaluations/tiny/dense/step-000/docs.json", "model"),
        (page, "tables/hand.json", "experiment"),
    ],
)
def test_one_line_names_file_and_field(results, verb, file, field, damage, capsys):
    whole = (results / file).read_text()
    record = json.loads(whole)
    spoilt = {
        "without": {key: value for key, value in record.items() if key != field},
        "wrong": record | {field: "x"},
    }
    try:
        given = json.dumps(spoilt[damage]) if damage in spoilt else damage
        (results / file).write_text(given)
        assert run(fusegpt_command, verb(results)) == 2
    finally:
        (results / file).write_text(whole)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(results / file) in line
    assert damage not in spoilt or field in line


def test_a_table_that_shows_nothing_known_is_named(results, capsys):
    file = results / "tables/hand.json"
    whole = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(whole) | {"experiment": {"name": "hand"}}))
        assert run(fusegpt_command, page(results)) == 2
    finally:
        file.write_text(whole)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: experiment.models: " in line
