"""What the charts say: frontiers, costs, sublayers, which values come first."""

import pandas as pd
import pytest

from fusegpt.reports.charts import fusion_chart, importance_chart, loss_chart, stack_chart
from fusegpt.reports.collect import collect, whole_models
from fusegpt.reports.costs import cost_rows, memory_chart, time_chart
from fusegpt.reports.figures import sparsity_chart
from fusegpt.reports.frontier import frontier_chart, size_axis, speed_axis
from fusegpt.reports.palette import recipe_marks
from fusegpt.reports.run import Run, read_finishes
from fusegpt.reports.tables import main_labels
from fusegpt.results.contents import parse_contents
from fusegpt.results.history import Link, read_history
from fusegpt.units import Unit
from tests.reports.conftest import (
    LAST,
    RECIPES,
    SLICED,
    evaluation,
    write,
    write_checkpoint,
)


@pytest.fixture
def frame(results, experiment):
    return collect(parse_contents(experiment), results)


def data_of(chart):
    """Every row a chart draws from."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def links_of(results, name, last=LAST):
    manifest = results / f"runs/tiny/{RECIPES[name]}/step-{last:03d}/manifest.json"
    return read_history(manifest, whole=False).links


def add_speed(frame, speed_ups):
    """Rows of the evaluation speed: a ratio for each pruned model, none for the dense one."""
    first = frame[frame["recipe"] != "dense"].drop_duplicates(["recipe", "step"])
    rows = first.assign(evaluation="speed", task="batch 1", metric="decode_speedup", unit="ratio")
    rows = rows.assign(value=[speed_ups[step] for step in rows["step"]], higher_is_better=True)
    more = rows.assign(metric="decode", value=1.0), rows.assign(metric="latency", value=1.0)
    return pd.concat([frame, rows, *more], ignore_index=True)


def test_of_an_evaluation_with_many_values_none_comes_first_but_its_mean(frame):
    fast = add_speed(frame, {2: 1.1, 4: 1.3})
    assert main_labels(fast) == ["docs perplexity"]
    many = [fast[fast["evaluation"] == "docs"].assign(evaluation="five", task=task, metric="acc")
            for task in ("piqa", "arc_easy", "mean[:100]")]  # fmt: skip
    assert main_labels(pd.concat([fast, *many])) == ["docs perplexity", "five mean[:100] acc"]
    kinds = [many[0].assign(evaluation="seen", task=task) for task in ("all", "all a", "all b")]
    assert main_labels(pd.concat(kinds)) == ["seen all acc"]


def test_the_frontier_has_what_nothing_beats_in_quality_and_speed(frame):
    fast = add_speed(frame, {2: 1.1, 4: 1.3})
    axis = speed_axis(fast)
    assert axis.measured and axis.title == "decode speed, times the dense model's (batch 1)"
    rows = data_of(frontier_chart(fast, "docs perplexity", axis))
    best = {(row["recipe"], row["step"]) for row in rows if row["frontier"]}
    assert best == {("dense", 0), ("fusegpt", 2), ("fusegpt", 4)}


def test_any_evaluations_speed_up_is_a_speed_and_the_last_metric_counts(frame):
    fast = add_speed(frame, {2: 1.1, 4: 1.3})
    ratios = fast[fast["metric"] == "decode_speedup"]
    more = [ratios.assign(metric=name, value=7.0) for name in ("tuning_speedup", "x_speedup_ideal")]
    axis = speed_axis(pd.concat([fast, *more], ignore_index=True))
    assert axis.title == "tuning speed, times the dense model's (batch 1)"
    assert set(axis.values["cost"]) == {1.0, 7.0}


def test_files_that_were_exported_have_a_frontier_over_their_size(frame):
    assert size_axis(frame) is None
    whole = frame.assign(file_bytes=frame["parameters"] * 2)
    small = whole.assign(export="int4", file_bytes=whole["file_bytes"] / 3)
    files = pd.concat([whole, small.assign(value=small["value"] + 1)], ignore_index=True)

    rows = data_of(frontier_chart(files, "docs perplexity", size_axis(files)))

    assert len(rows) == len(files)
    words = {row["words"] for row in rows if row["words"]}
    assert {"0%", "int4"} <= words
    assert all(row["frontier"] for row in rows if row["recipe"] == "dense")
    assert set(whole_models(files)["export"]) == {""}


def test_without_measured_speed_the_parameters_stand_in_and_say_so(frame):
    axis = speed_axis(frame)
    assert not axis.measured and axis.title.startswith("remaining parameters")
    assert frontier_chart(frame[frame["recipe"] == "dense"], "docs perplexity", axis) is None


def test_costs_have_every_stage_of_every_run(results):
    runs = [Run(name, "tiny", id_, links_of(results, name)) for name, id_ in RECIPES.items()]
    rows = pd.DataFrame(cost_rows(results, "tiny", runs, LAST))
    spent = rows.groupby(["run", "stage"])["seconds"].sum()
    assert spent["fusegpt", "recover"] == 4 * 30 and spent["fusegpt", "score"] == 8
    assert spent["fusegpt", "evaluate"] == 6 and spent["dense", "evaluate"] == 3
    assert rows.groupby("stage")["memory_gib"].max().to_dict() == {
        "score": 0.9, "recover": 1.4, "evaluate": 0.8
    }  # fmt: skip
    assert data_of(time_chart(rows.to_dict("records")))
    assert data_of(memory_chart(rows.to_dict("records")))
    assert memory_chart([{"run": "a", "stage": "score", "seconds": 1, "memory_gib": None}]) is None


def test_losses_of_a_recovery_at_the_end_are_a_curve_of_their_own(results):
    rows = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.5}]
    recipe = RECIPES["macro_influence"]
    file = results / f"checkpoints/tiny/{recipe}/step-004/fusegpt.json"
    write_checkpoint(file, finish={"training": rows})
    links = links_of(results, "macro_influence")
    assert loss_chart(links) is None
    drawn = data_of(loss_chart(links, read_finishes(results, "tiny", recipe)))
    assert [(row["removal"], row["loss"]) for row in drawn] == [("after 4", 2.0), ("after 4", 1.5)]
    assert read_finishes(results, "tiny", "nothing") == {}
    write_checkpoint(file, finish={"training": rows, "undone": True})
    drawn = data_of(loss_chart(links, read_finishes(results, "tiny", recipe)))
    assert {row["removal"] for row in drawn} == {"after 4 (undone)"}


def test_a_recovery_at_the_end_and_slicing_cost_too(results):
    end = {"finish": {"seconds": 50.0, "memory_gib": 2.0}, "seconds": 60.0}
    recipe, other = RECIPES["fusegpt"], "slicegpt-00000004"
    write_checkpoint(results / f"checkpoints/tiny/{recipe}/step-004/fusegpt.json", **end)
    sliced = {**SLICED, "seconds": 9.0, "memory_gib": 1.0}
    write_checkpoint(results / f"slices/tiny/{other}/sparsity-0.3/fusegpt.json", **sliced)
    write(results / f"evaluations/tiny/{other}/sparsity-0.3/docs.json", evaluation(0, 50.0))
    finishes = read_finishes(results, "tiny", recipe)
    runs = [Run("fusegpt", "tiny", recipe, (), finishes), Run("slicegpt", "tiny", other)]
    rows = cost_rows(results, "tiny", runs, LAST)
    spent = {(row["run"], row["stage"], row["step"]): row["seconds"] for row in rows}
    assert spent["fusegpt", "recover", 4] == 50
    assert spent["slicegpt", "slice", 0] == 9 and spent["slicegpt", "evaluate", 0] == 3


def test_each_row_of_the_fusions_leaves_out_what_is_gone(results):
    rows = data_of(fusion_chart(links_of(results, "fusegpt"), 12))
    last = {row["block"]: row["state"] for row in rows if row["step"] == "4: 5"}
    assert last[5] == "removed" and {7, 8, 9}.isdisjoint(last)
    assert last[6] == "received weights" and last[0] == "untouched"
    assert fusion_chart(links_of(results, "macro_influence"), 12) is None


def test_a_block_without_its_attention_has_a_sublayer_removed(results):
    links = []
    gone = (Unit("attention", 8), Unit("mlp", 8), Unit("attention", 3))
    for link, unit in zip(links_of(results, "macro_influence", 3), gone, strict=True):
        links.append(Link(link.file, link.record.plus(unit=unit.to_json())))
    states = {row["block"]: (row["state"], row["text"]) for row in
              data_of(stack_chart({"run": links}, 12))}  # fmt: skip
    assert states[8] == ("removed", "1a 2m") and states[3] == ("sublayer removed", "3a")
    assert not any(row["removed"] for row in data_of(importance_chart(links)))


def test_recipes_beyond_eight_are_told_apart_by_shape_and_dashes():
    names = [f"recipe_{place}" for place in range(20)]
    marks = recipe_marks(names, "x", dense=True)
    ranges = [channel.to_dict()["scale"]["range"] for channel in (marks.colour, marks.shape)]
    assert len(set(zip(*ranges, strict=True))) == 21
    assert marks.dash.to_dict()["scale"]["range"][8] != [1, 0]


def layers_of(chart):
    """Each layer's mark, vertical encoding and filters."""
    return [
        (layer["mark"], layer["encoding"]["y"], layer.get("transform", []))
        for layer in chart.to_dict()["layer"]
    ]


def test_values_far_above_all_others_are_triangles_on_the_edge_of_a_cut_axis(frame):
    far = frame.assign(value=frame["value"].where(frame["recipe"] != "fusegpt", 1e6))
    (line, mean, _), (_, _, (shown,)), (above, place, (hidden,)) = [
        layer for layer in layers_of(sparsity_chart(far, "tiny", "docs perplexity"))
        if layer[0]["type"] not in ("rule", "text")
    ]  # fmt: skip
    edge = place["datum"]
    assert line["clip"] and above["shape"] == "triangle-up"
    assert mean["scale"]["domain"][1] == edge < 1e3
    assert (shown["filter"], hidden["filter"]) == (
        f"datum.value <= {edge}",
        f"datum.value > {edge}",
    )


def test_an_axis_that_holds_everything_is_not_cut(frame):
    marks = [layer[0] for layer in layers_of(sparsity_chart(frame, "tiny", "docs perplexity"))]
    assert "triangle-up" not in [mark.get("shape") for mark in marks]


def test_a_recipe_that_slices_widths_starts_at_the_dense_model_too(frame):
    sliced = frame[frame["recipe"] == "fusegpt"].assign(recipe="slicegpt", step=0)
    rows = data_of(sparsity_chart(pd.concat([frame, sliced]), "tiny", "docs perplexity"))
    assert 0 in {row["sparsity"] for row in rows if row["recipe"] == "slicegpt"}
