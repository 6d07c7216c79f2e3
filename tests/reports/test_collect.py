"""Result files become rows, and rows that were not measured alike never share a label."""

import json

import pytest

from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.reports.collect import COLUMNS, collect, whole_models
from fusegpt.reports.grid import results_grid, step_grid
from fusegpt.reports.tables import text_table
from fusegpt.results.contents import parse_contents
from fusegpt.results.history import read_history
from tests.reports.conftest import evaluation, write, write_checkpoint, write_step


def test_every_recipe_and_sparsity_is_a_row_and_dense_is_one(results, experiment):
    frame = collect(parse_contents(experiment), results)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 1 + 3 * 2
    assert frame["recipe"].value_counts()["dense"] == 1
    row = frame[(frame["recipe"] == "fusegpt") & (frame["sparsity"] == 0.3)].iloc[0]
    assert row["blocks_left"] == 8 and row["step"] == 4
    assert row["value"] == pytest.approx(20 + 48 * 0.45)


def test_seconds_add_up_over_the_steps_and_memory_is_the_peak(results, experiment):
    frame = collect(parse_contents(experiment), results)
    row = frame[(frame["recipe"] == "fusegpt") & (frame["step"] == 4)].iloc[0]
    assert (row["score_seconds"], row["fuse_seconds"], row["seconds"]) == (8.0, 120.0, 128.0)
    assert row["memory_gib"] == pytest.approx(1.4)
    file = results / "runs/tiny/fusegpt-00000003/step-002/scores.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"memory_gib": 3.5}))
    rows = collect(parse_contents(experiment), results)
    found = rows[rows["recipe"] == "fusegpt"].set_index("step")["memory_gib"]
    assert found[4] == 3.5  # scoring may take more than what follows


def test_what_recovery_spent_adds_up_over_the_steps_and_its_size_is_the_largest(
    results, experiment
):
    frame = collect(parse_contents(experiment), results)
    row = frame[(frame["recipe"] == "fusegpt") & (frame["step"] == 4)].iloc[0]
    assert (row["trainable_parameters"], row["tokens"]) == (4000, 4 * 4096)
    assert (row["optimizer_steps"], row["flops"]) == (64, 1e10)
    assert frame[frame["recipe"] == "dense"].iloc[0]["tokens"] == 0


def test_undone_tunings_are_counted_in_tables_and_marked_on_the_page(results, experiment):
    run = results / "runs/tiny/fusegpt-00000003"
    for step in range(1, 5):
        undone = {"undone": True} if step in (2, 3) else {}
        write_step(run, step, trained=True, fused=True, **undone)
    frame = collect(parse_contents(experiment), results)
    rows = frame[frame["recipe"] == "fusegpt"].set_index("step")
    assert (rows["undone"][2], rows["undone"][4]) == (1, 2)
    assert frame[frame["recipe"] == "macro_influence"]["undone"].tolist() == [0, 0]
    lines = text_table(frame).splitlines()
    assert (lines[1].split()[-1], lines[-1].split()[-3:]) == ("undone", ["2", "of", "4"])
    write_checkpoint(
        results / "checkpoints/tiny/fusegpt-00000003/step-004/fusegpt.json",
        finish={"optimizer_steps": 3, "undone": True},
    )
    lines = text_table(collect(parse_contents(experiment), results)).splitlines()
    assert lines[-1].split()[-3:] == ["3", "of", "5"]
    links = read_history(run / "step-004/manifest.json", whole=False).links
    marked = [row[6].text.endswith(" (undone)") for row in step_grid("steps", links).rows]
    assert marked == [False, True, True, False]
    counted = {row[0].text: row[-2].text for row in results_grid("all", frame).rows}
    assert (counted["fusegpt"], counted["macro_influence"]) == ("2", "0")


def test_a_recovery_at_the_end_is_spent_too(results, experiment):
    spent = {"trainable_parameters": 9, "tokens": 10, "optimizer_steps": 11, "flops": 12.0}
    finish = {**spent, "seconds": 7.0, "memory_gib": 5.0}
    place = "checkpoints/tiny/macro_influence-00000001/step-004/fusegpt.json"
    write_checkpoint(results / place, finish=finish)
    frame = collect(parse_contents(experiment), results)
    row = frame[(frame["recipe"] == "macro_influence") & (frame["step"] == 4)].iloc[0]
    assert {name: row[name] for name in spent} == spent
    assert (row["seconds"], row["memory_gib"]) == (8.0 + 2.0 + 7.0, 5.0)


def test_a_missing_evaluation_is_named(results, experiment):
    (results / "evaluations/tiny/fusegpt-00000003/step-004/docs.json").unlink()
    with pytest.raises(ArtifactError, match=r"fusegpt-00000003/step-004/docs\.json"):
        collect(parse_contents(experiment), results)


def test_rows_measured_with_another_length_are_refused(results, experiment):
    file = results / "evaluations/tiny/fusegpt-00000003/step-004/docs.json"
    value = json.loads(file.read_text())
    value["rows"][0]["protocol"]["length"] = 1024
    file.write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match="must have the same protocol"):
        collect(parse_contents(experiment), results)


def test_a_file_that_is_no_evaluation_is_refused(results, experiment):
    (results / "evaluations/tiny/dense/step-000/docs.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"docs\.json: must be an evaluation: rows: is req"):
        collect(parse_contents(experiment), results)


def test_one_name_and_seed_with_two_ids_is_refused(experiment):
    experiment["recipes"].append({"name": "fusegpt", "seed": 0, "id": "fusegpt-ffffffff"})
    with pytest.raises(ConfigError, match="must have one id"):
        parse_contents(experiment)


def test_an_unknown_key_of_the_experiment_is_refused(experiment):
    with pytest.raises(ConfigError, match="unknown setting 'model'"):
        parse_contents({**experiment, "model": 1})


def test_exports_are_rows_of_their_own_with_the_sizes_of_their_files(results, experiment):
    def listed(name: str, size: int) -> dict:
        return {"files": {name: {"sha256": "0" * 64, "bytes": size}, "config.json": FEW}}

    FEW = {"sha256": "0" * 64, "bytes": 7}
    source = json.loads((results / "models/tiny/source.json").read_text())
    place = "tiny/dense/step-000"
    folder = results / f"exports/{place}/gguf-q8_0"
    write(results / "models/tiny/source.json", source | listed("model.safetensors", 4_000_000))
    about = {"kind": "export", "export": "gguf:q8_0", "num_blocks": 12, "kept": list(range(12))}
    write(folder / "export.json", about | listed("model-q8_0.gguf", 1_100_000))
    write(results / f"evaluations/{place}/gguf-q8_0/docs.json", evaluation(0, 20.5))
    exports = [{"name": "gguf-q8_0", "text": "gguf:q8_0", "evaluations": ["docs"]}]
    contents = parse_contents(experiment | {"recipes": experiment["recipes"][:1]})
    asked = parse_contents({**contents.to_json(), "exports": exports})

    frame = collect(asked, results)

    assert frame["export"].tolist() == ["", "gguf:q8_0"]
    assert frame["file_bytes"].tolist() == [4_000_000, 1_100_000]
    assert frame["value"].tolist() == [20.0, 20.5]
    assert whole_models(frame)["value"].tolist() == [20.0]
    lines = text_table(frame).splitlines()
    assert lines[1].split()[:5] == ["recipe", "sparsity", "export", "file", "size"]
    assert lines[-1].split()[:5] == ["dense", "0%", "gguf:q8_0", "1.1", "MB"]
    assert "file size" not in text_table(collect(contents, results))
