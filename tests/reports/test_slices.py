"""Sliced widths in tables and on the page: a row per sparsity, every block left, no steps."""

from __future__ import annotations

import pytest

from fusegpt.artifacts import write_json
from fusegpt.reports.collect import collect, evaluation_files
from fusegpt.reports.figures import sparsity_chart
from fusegpt.reports.frontier import frontier_chart, speed_axis
from fusegpt.reports.page import write_page
from fusegpt.reports.tables import text_table, write_csv
from fusegpt.results.contents import parse_contents
from tests.reports.conftest import BLOCKS, SLICED, evaluation, write_checkpoint

RECIPE = {"name": "slicegpt", "seed": 0, "id": "slicegpt-00000004", "width": True}


@pytest.fixture
def frame(results, experiment):
    """The rows of the experiment with two sliced models of other sizes."""
    experiment["recipes"].append(RECIPE)
    for sparsity, value, parameters in (("0.15", 50.0, 60_000_000), ("0.3", 90.0, 50_000_000)):
        place = f"tiny/{RECIPE['id']}/sparsity-{sparsity}"
        content = evaluation(0, value)
        content["model"]["parameters"] = parameters
        write_json(results / "evaluations" / place / "docs.json", content)
        notes = {**SLICED, "seconds": 12.5, "memory_gib": 2.0}
        write_checkpoint(results / "slices" / place / "fusegpt.json", **notes)
    asked = parse_contents(experiment)
    assert len(evaluation_files(asked, results)) == 1 + 4 * 2
    return collect(asked, results)


def test_a_slice_keeps_its_blocks_and_says_its_parameters(frame):
    rows = frame[frame["recipe"] == "slicegpt"].set_index("sparsity")

    assert list(rows["value"]) == [50.0, 90.0]
    assert list(rows["parameters"]) == [60_000_000, 50_000_000]
    assert set(rows["blocks_left"]) == {BLOCKS} and set(rows["step"]) == {0}
    assert set(rows["seconds"]) == {12.5} and set(rows["memory_gib"]) == {2.0}
    assert set(rows["tokens"]) == {0}


def test_tunings_of_shared_models_are_counted_where_they_are_on_record(results, experiment, frame):
    spent = {"trainable_parameters": 1, "tokens": 2, "optimizer_steps": 3, "flops": 4.0}
    for sparsity, more in (("0.15", {}), ("0.3", {"trainings": 3, "undone": 2})):
        file = results / f"slices/tiny/{RECIPE['id']}/sparsity-{sparsity}/fusegpt.json"
        write_checkpoint(file, **SLICED, spent=spent, **more)
    found = collect(parse_contents(experiment), results)
    rows = found[found["recipe"] == "slicegpt"].set_index("sparsity")

    assert rows["undone"].isna()[0.15] and rows["trainings"].isna()[0.15]
    assert (rows["undone"][0.3], rows["trainings"][0.3]) == (2, 3)
    lines = [line for line in text_table(found).splitlines() if line.startswith("slicegpt")]
    assert lines[0].split()[-1] == "-" and lines[1].endswith("2 of 3")


def test_the_tables_have_a_line_per_sparsity(frame):
    lines = [line for line in text_table(frame).splitlines() if line.startswith("slicegpt")]

    assert len(lines) == 2
    assert "30%" in lines[1] and "12/12" in lines[1] and "50M" in lines[1] and "90.00" in lines[1]


def test_each_slice_is_one_point_of_the_frontier(frame):
    chart = frontier_chart(frame, "docs perplexity", speed_axis(frame)).to_dict()

    [points] = [rows for rows in chart["datasets"].values() if "cost" in rows[0]]
    sliced = [(row["cost"], row["value"]) for row in points if row["recipe"] == "slicegpt"]
    assert sorted(sliced) == [(50.0, 90.0), (60.0, 50.0)]


def test_sparsity_is_of_blocks_only_where_all_recipes_remove_blocks(frame):
    titles = [
        sparsity_chart(rows, "tiny", "docs perplexity").to_dict()["layer"][1]["encoding"]["x"]
        for rows in (frame, frame[frame["recipe"] != "slicegpt"])
    ]
    assert [x["title"] for x in titles] == ["sparsity", "sparsity (blocks removed)"]


def test_the_page_shows_them(frame, results, tmp_path):
    csv = results / "tables/hand.csv"
    write_csv(csv, frame)

    write_page(tmp_path / "report.html", [csv], results=results)

    assert "slicegpt" in (tmp_path / "report.html").read_text()
