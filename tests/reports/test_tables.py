"""The CSV round trip, the summary over seeds, and the table a terminal shows."""

import json
import re

import pandas as pd
import pytest

from fusegpt.errors import ArtifactError
from fusegpt.reports import tables
from fusegpt.reports.collect import collect
from fusegpt.reports.grid import protocol_grid, results_grid
from fusegpt.reports.picture import write_svg
from fusegpt.results.contents import parse_contents


@pytest.fixture
def frame(results, experiment):
    return collect(parse_contents(experiment), results)


def test_a_csv_reads_back_as_it_was_written(frame, tmp_path):
    tables.write_csv(tmp_path / "t.csv", frame)
    again = tables.read_csv(tmp_path / "t.csv")
    assert again["value"].tolist() == frame["value"].tolist()
    assert again["protocol"].tolist() == frame["protocol"].tolist()
    assert tables.text_table(again) == tables.text_table(frame)


def test_a_warning_on_a_value_stays_with_it(results, experiment, tmp_path):
    file = next((results / "evaluations").rglob("*.json"))
    result = json.loads(file.read_text())
    result["rows"][0]["note"] = "above the ideal 1.363: noise"
    file.write_text(json.dumps(result))
    tables.write_csv(tmp_path / "t.csv", collect(parse_contents(experiment), results))
    notes = tables.read_csv(tmp_path / "t.csv")["note"].tolist()
    assert notes.count("above the ideal 1.363: noise") == 1
    assert set(notes) == {"", "above the ideal 1.363: noise"}


def test_what_was_asked_in_place_of_a_sparsity_stands_beside_what_came_out(results, experiment):
    plain = collect(parse_contents(experiment), results)
    assert "asked" not in tables.text_table(plain)
    assert "asked" not in [column.title for column in results_grid("r", plain).columns]
    model = experiment["models"]["tiny"]
    model["steps"] = {"0.15": 2}
    model["targets"] = {experiment["recipes"][3]["id"]: {"parameters=60M": 4, "blocks=10": 2}}

    frame = collect(parse_contents(experiment), results)

    lines = {tuple(line.split()[:3]) for line in tables.text_table(frame).splitlines()}
    assert {("dense", "0%", "-"), ("fusegpt", "15%", "-")} <= lines
    assert {("fusegpt", "16.7%", "blocks=10"), ("fusegpt", "33.3%", "parameters=60M")} <= lines
    grid = results_grid("r", frame)
    place = [column.title for column in grid.columns].index("asked")
    assert [row[place].text for row in grid.rows if row[0].text == "fusegpt"] == [
        "-",
        "blocks=10",
        "parameters=60M",
    ]


def test_the_summary_is_ordered_by_sparsity_then_as_the_experiment_names_recipes(frame):
    table = tables.summary(frame)
    assert table["recipe"].tolist()[:4] == [
        "dense",
        "macro_influence",
        "macro_influence_finetune",
        "fusegpt",
    ]
    assert table["sparsity"].is_monotonic_increasing


def test_seeds_are_averaged_and_their_spread_is_told(frame):
    twin = frame[frame["recipe"] == "fusegpt"].assign(seed=1)
    twin["value"] += 2
    both = tables.pd.concat([frame, twin], ignore_index=True)
    row = tables.summary(both).query("recipe == 'fusegpt' and step == 4").iloc[0]
    assert row["seeds"] == 2
    assert row["docs perplexity"] == pytest.approx(20 + 48 * 0.45 + 1)
    assert row["docs perplexity std"] == pytest.approx(2**0.5)


def test_the_text_has_blocks_parameters_value_and_seconds(frame):
    lines = tables.text_table(frame).splitlines()
    assert lines[1].split() == [
        "recipe", "sparsity", "blocks", "parameters", "docs", "perplexity", "seconds",
        "trainable", "parameters", "tokens", "FLOPs",
    ]  # fmt: skip
    last = lines[-1].split()
    assert last == ["fusegpt", "30%", "8/12", "56M", "41.60", "128", "4k", "16.38k", "1e+10"]
    assert lines[-3].split()[-4:] == ["10", "-", "-", "-"]


def test_a_table_from_before_budgets_were_recorded_is_read(frame, tmp_path):
    old = frame.drop(columns=["trainable_parameters", "tokens", "optimizer_steps", "flops"])
    tables.write_csv(tmp_path / "t.csv", old)
    again = tables.read_csv(tmp_path / "t.csv")
    assert "tokens" not in tables.text_table(again)
    assert len(again) == len(frame)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "cannot be read"), ("a,b\n1,2\n", "'experiment' is missing"), (None, "cannot be read")],
)
def test_a_broken_table_is_refused(tmp_path, text, message):
    file = tmp_path / "t.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArtifactError, match=message):
        tables.read_csv(file)


def test_a_word_where_a_number_must_be_is_named(frame, tmp_path):
    frame.astype({"sparsity": str}).replace({"sparsity": {"0.3": "30%"}}).to_csv(tmp_path / "t.csv")
    with pytest.raises(ArtifactError, match=r"t\.csv: sparsity must be a number, got '30%'"):
        tables.read_csv(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("value", "text"), [(134515008, "134.5M"), (6.738e9, "6.738B"), (900, "900")]
)
def test_parameters_are_short(value, text):
    assert tables.format_parameters(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "10%"), (0.25, "25%"), (0.125, "12.5%"), (0.29, "29%"), (0.0, "0%")]
)
def test_sparsity_is_printed_as_percent(value, text):
    assert tables.format_sparsity(value) == text


def test_the_protocol_is_told_without_checksums(frame):
    frame["protocol"] = '{"corpus": "python_docs", "join": " ", "tokenizer_sha256": "f5ba"}'
    (row,) = protocol_grid("how", frame).rows
    assert [cell.text for cell in row] == [
        "docs", "python_docs", "perplexity", "exp(nats/token)", "20", 'corpus python_docs, join " "'
    ]  # fmt: skip


def test_the_readmes_picture_shows_the_committed_numbers(root, tmp_path):
    results = root / "docs/results"
    write_svg(tmp_path / "again.svg", tables.read_csv(results / "fusion_small.csv"))
    values = [
        sorted(re.findall(r'aria-label="(sparsity[^"]*)"', file.read_text()))
        for file in (results / "fusion_small.svg", tmp_path / "again.svg")
    ]
    assert values[0] == values[1] and len(values[0]) >= 2 * 4 * 4


def test_exports_are_drawn_over_the_size_of_their_files(root, tmp_path):
    write_svg(tmp_path / "exports.svg", tables.read_csv(root / "docs/results/exports.csv"))
    drawn = (tmp_path / "exports.svg").read_text()
    assert "file size, MB" in drawn and "q4_k_m" in drawn and "25% q4_k_m" in drawn


def test_seeds_that_remove_units_of_different_sizes_have_their_mean_of_parameters(frame):
    rows = frame[(frame["recipe"] == "fusegpt") & (frame["step"] == 4)]
    twin = rows.assign(seed=1, parameters=rows["parameters"] + 1_000_000)
    (row,) = tables.summary(pd.concat([rows, twin], ignore_index=True)).to_dict("records")
    assert row["seeds"] == 2 and row["parameters"] == rows["parameters"].iloc[0] + 500_000


def test_a_table_of_several_seeds_says_of_how_many_a_mean_is(frame):
    assert "seeds" not in tables.text_table(frame)
    tuned = frame[frame["recipe"] == "fusegpt"]
    twice = pd.concat([frame, tuned.assign(seed=1, value=tuned["value"] + 1)], ignore_index=True)
    head, *lines = [line.split() for line in tables.text_table(twice).splitlines()[1:]]
    assert head[-1] == "seeds"
    assert {line[0]: line[-1] for line in lines[1:]}["fusegpt"] == "2"
    assert lines[1][0] == "dense" and lines[1][-1] == "1"


def test_all_that_share_the_best_value_are_marked(frame):
    rows = frame[frame["step"] == 4].assign(value=40.0)
    rows.loc[rows["recipe"] == "macro_influence", "value"] = 50.0
    marked = {row[0].text for row in results_grid("r", rows).rows for c in row if c.mark == "best"}
    assert marked == {"macro_influence_finetune", "fusegpt"}
