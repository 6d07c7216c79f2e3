"""Values over what the recipes of an experiment differ in."""

from __future__ import annotations

import json
import re

import pytest

from fusegpt.errors import ConfigError
from fusegpt.reports import written
from fusegpt.reports.collect import collect
from fusegpt.reports.curves import curve_charts
from fusegpt.reports.written import curves_of, read_table_record
from fusegpt.results.contents import parse_contents
from fusegpt.workflow.files import plan_of
from tests.planned import fusegpt
from tests.reports.conftest import write

CURVES = {"windows": {"tuned": {"8": "macro_influence_finetune", "64.0": "fusegpt"}}}


def read_curves(csv):
    return curves_of(read_table_record(csv), csv)


@pytest.fixture
def table(results, experiment):
    """The table of an experiment that varies something, with its record beside it."""
    write(results / "experiment.json", {**experiment, "curves": CURVES})
    asked = (results / "experiment.json").read_text()
    csv = results / "tables/hand.csv"
    csv.parent.mkdir()
    fusegpt("table", "--experiment", asked, "--results", results, "--output", csv)
    return csv


def test_a_chart_has_the_values_of_its_recipes_at_their_numbers(results, table, experiment):
    curves = read_curves(table)
    assert curves == {"windows": {"tuned": {8.0: "macro_influence_finetune", 64.0: "fusegpt"}}}
    frame = collect(parse_contents(experiment), results)

    charts = dict(curve_charts(frame, "tiny", "docs perplexity", curves))

    assert list(charts) == [
        f"docs perplexity over windows, sparsity {sparsity}" for sparsity in ("15%", "30%")
    ]
    (rows,) = charts["docs perplexity over windows, sparsity 30%"].to_dict()["datasets"].values()
    assert [(row["run"], row["at"], row["value"]) for row in rows] == [
        ("macro_influence_finetune", 8.0, pytest.approx(20 + 12 * 4 * 0.6)),
        ("fusegpt", 64.0, pytest.approx(20 + 12 * 4 * 0.45)),
    ]
    assert {row["recipe"] for row in rows} == {"tuned"}


def test_a_table_without_its_record_has_no_curves(table):
    table.with_suffix(".json").unlink()
    assert read_curves(table) == {}
    write(table.with_suffix(".json"), {"experiments": {"hand": {}}})
    assert read_curves(table) == {}


def test_a_figure_and_a_page_read_a_record_once(results, table, monkeypatch):
    read, seen = written.read_whole, []
    monkeypatch.setattr(written, "read_whole", lambda file: seen.append(file) or read(file))

    fusegpt("figure", "--table", table, "--output", results / "hand.svg")
    assert seen == [table.with_suffix(".json")]
    fusegpt("report", "--table", table, "--results", results, "--output", results / "report.html")
    assert seen == [table.with_suffix(".json")] * 2


@pytest.mark.slow
def test_figure_and_page_show_them(results, table):
    svg, page = results / "hand.svg", results / "report.html"
    fusegpt("figure", "--table", table, "--output", svg)
    fusegpt("report", "--table", table, "--figure", svg, "--results", results, "--output", page)

    titles = re.findall(r'aria-label="X-axis titled \'([^\']*)\'', svg.read_text())
    assert set(titles) == {"windows", "sparsity (blocks removed)"}
    assert "docs perplexity over windows, sparsity 15%." in page.read_text()


def test_numbers_that_lie_close_are_written_out(results, table):
    group = {"group": {"tuned": {"3": "macro_influence_finetune", "11": "fusegpt"}}}
    record = json.loads(table.with_suffix(".json").read_text())
    record["experiment"]["curves"] = group
    del record["digest"]
    write(table.with_suffix(".json"), record)

    fusegpt("figure", "--table", table, "--output", results / "hand.svg")

    assert {"3", "11"} <= set(re.findall(r">([^<>]+)</text>", (results / "hand.svg").read_text()))


def test_a_curve_names_recipes_of_its_experiment(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("experiments: {demo: {curves: {rank: {fusegpt: {8: fusegtp}}}}}\n")

    with pytest.raises(ConfigError) as caught:
        plan_of(["demo", str(file)])

    assert str(caught.value).startswith("experiments.demo.curves.rank.fusegpt: unknown recipe")


@pytest.mark.parametrize("name", ["figure3", "figure3-small", "rank_group_loss-small"])
def test_the_experiments_curves_are_what_their_recipes_say(name):
    plan = plan_of([name])
    named = {member.name: plan.recipes.get(member.id) for member in plan.members[name]}
    settings = {"rank": "rank", "blocks in the group": "group_size", "epochs": "epochs"}
    for axis, lines in plan.experiments[name].curves.items():
        for places in lines.values():
            for at, recipe in places.items():
                found = named[recipe]
                if axis in settings:
                    assert getattr(found.recovery, settings[axis]) == at
                elif found is not None:
                    role = "finetune" if found.needs_windows else "calibration"
                    assert found.windows(role).sequences == at
