"""`fusegpt verify`: a real small chain is as its records say; each kind of damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from fusegpt.artifacts import file_record, sha256, write_json
from fusegpt.cli import fusegpt_command
from fusegpt.data.window_files import write_windows
from fusegpt.errors import ArtifactError
from fusegpt.pruning.recipe import resolve
from fusegpt.workflow.verify import verify


@pytest.fixture
def results(tmp_path):
    """A model, its windows, two steps with scores, a checkpoint, an evaluation and a table."""
    top = tmp_path / "results"
    model = top / "models/tiny"
    run = top / "runs/tiny/mine-00000000"
    (top / "data/tiny").mkdir(parents=True)
    windows = top / "data/tiny/w.parquet"
    pq.write_table(pa.table({"input_ids": [[1, 2]]}), windows)
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    source = {"num_blocks": 4, "files": _files(model / "model.safetensors")}
    write_json(model / "source.json", source)
    _write(run / "step-000/manifest.json", {"kind": "start"}, model / "source.json")
    for k in (1, 2):
        step, before = run / f"step-{k:03d}", run / f"step-{k - 1:03d}/manifest.json"
        scores = {"metric": "random", "units": [], "inputs": {"calibration": sha256(windows)}}
        _write(step / "scores.json", scores, before)
        (step / "delta.safetensors").write_bytes(b"delta %d" % k)
        inputs = {"scores": sha256(step / "scores.json"), "finetune": sha256(windows)}
        notes = {"kind": "step", "step": k, "unit": {"granularity": "block", "index": k}}
        notes |= {"inputs": inputs, "files": _files(step / "delta.safetensors")}
        _write(step / "manifest.json", notes, before)
    last = run / "step-002/manifest.json"
    checkpoint = top / "checkpoints/tiny/mine-00000000/step-002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"merged")
    model_notes = {"num_blocks": 4, "kept": [0, 3], "removed": []}
    whole = {**model_notes, "files": _files(checkpoint / "model.safetensors")}
    _write(checkpoint / "fusegpt.json", whole, last)
    evaluation = top / "evaluations/tiny/mine-00000000/step-002/docs.json"
    _write(evaluation, {"rows": [], "model": {**model_notes, "parameters": 9}}, last)
    (top / "tables").mkdir()
    (top / "tables/study.csv").write_text("a\n")
    parents = [{"path": f"../{evaluation.relative_to(top)}", "sha256": sha256(evaluation)}]
    table = {"experiment": {}, "files": _files(top / "tables/study.csv"), "parents": parents}
    write_json(top / "tables/study.json", table)
    return top


def _files(file: Path) -> dict:
    return {file.name: file_record(file)}


def _write(file: Path, notes: dict, parent: Path) -> None:
    path = Path("/".join([".."] * (len(file.parent.relative_to(_top(file)).parts))))
    parent_path = (path / parent.relative_to(_top(file))).as_posix()
    write_json(file, {**notes, "parent": {"path": parent_path, "sha256": sha256(parent)}})


def _top(file: Path) -> Path:
    return next(parent for parent in file.parents if parent.name == "results")


def test_whole_results_have_no_problem(results):
    found = verify(results)
    assert (found.records, found.problems, found.leftovers) == (9, [], [])
    done = CliRunner().invoke(fusegpt_command, ["verify", str(results)])
    assert "9 records, everything as they say" in done.output


RUN = "runs/tiny/mine-00000000"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("models/tiny/model.safetensors", "model.safetensors: must have 7 bytes"),
        ("models/tiny/source.json", "step-000/manifest.json: its parent"),
        (f"{RUN}/step-001/delta.safetensors", "step-001/delta.safetensors: must have 7 bytes"),
        (f"{RUN}/step-001/manifest.json", "step-002/manifest.json: its parent"),
        (f"{RUN}/step-001/scores.json", "step-001/manifest.json: its scores"),
        ("data/tiny/w.parquet", "are nowhere in data/"),
        (
            "checkpoints/tiny/mine-00000000/step-002/model.safetensors",
            "model.safetensors: must have",
        ),
        (f"{RUN}/step-002/manifest.json", "docs.json: its parent"),
        ("evaluations/tiny/mine-00000000/step-002/docs.json", "study.json: its parent"),
        ("tables/study.csv", "study.csv: must have 2 bytes"),
    ],
)
@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_damage_is_named(results, file, words, damage):
    if damage == "deleted":
        (results / file).unlink()
        words = words.split(" must")[0]
    elif file.endswith(".json"):
        notes = json.loads((results / file).read_text())
        write_json(results / file, {**notes, "more": 1})
    else:
        with open(results / file, "ab") as stream:
            stream.write(b"!")

    problems = verify(results).problems

    assert any(words in line for line in problems), problems
    done = CliRunner().invoke(fusegpt_command, ["verify", str(results)])
    assert isinstance(done.exception, ArtifactError)


RECORDS = (
    "models/tiny/source.json",
    f"{RUN}/step-002/scores.json",
    f"{RUN}/step-002/manifest.json",
    "checkpoints/tiny/mine-00000000/step-002/fusegpt.json",
    "evaluations/tiny/mine-00000000/step-002/docs.json",
    "tables/study.json",
)


@pytest.mark.parametrize("text", ["[]", "{", '{"files": 3}', '{"parent": {"path": "x"}}', "null"])
@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_is_none_is_named(results, record, text):
    (results / record).write_text(text)

    problems = verify(results).problems

    assert any(line.startswith(f"{results / record}: ") for line in problems)
    assert not any("\n" in line for line in problems)


def test_a_folder_without_results_is_refused(results):
    shutil.rmtree(results / "models")

    with pytest.raises(ArtifactError, match="no results here"):
        verify(results / "data")


def _swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def test_evaluations_of_two_steps_that_were_swapped_are_named(results):
    model = {"num_blocks": 4, "kept": [0, 3], "removed": [], "parameters": 9}
    files = [results / f"evaluations/tiny/mine-00000000/step-{k:03d}/long.json" for k in (1, 2)]
    for k, file in enumerate(files, 1):
        _write(file, {"rows": [], "model": model}, results / RUN / f"step-{k:03d}/manifest.json")
    assert verify(results).problems == []

    _swap(*files)

    problems = verify(results).problems
    assert sum("which is of something else" in line for line in problems) == 2
    assert all(any(str(file) in line for line in problems) for file in files)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        (f"{RUN}/step-002/scores.json", {"recipe": "other-11111111"}, "must be of recipe mine-0"),
        (f"{RUN}/step-001/manifest.json", {"step": 7}, "must be of step 1, is of step 7"),
        (f"{RUN}/step-000/manifest.json", {"recipe": "other-11111111"}, "must be of recipe mine-0"),
        (
            "checkpoints/tiny/mine-00000000/step-002/fusegpt.json",
            {"recipe_id": "other-11111111"},
            "must be of recipe mine-00000000, is of other-11111111",
        ),
    ],
)
def test_a_record_of_another_run_is_named(results, file, changes, said):
    record = json.loads((results / file).read_text())
    write_json(results / file, {**record, **changes})

    assert any(str(results / file) in line and said in line for line in verify(results).problems)


def test_a_recipe_that_is_not_that_of_its_folder_is_named(results):
    recipe = resolve("mine", {"importance": {"metric": "random"}, "recovery": {"method": "none"}})
    write_json(results / RUN / "recipe.json", recipe.to_json())

    (line,) = verify(results).problems

    assert line == (
        f"{results / RUN / 'recipe.json'}: must be the recipe mine-00000000, is {recipe.id};"
        " delete it"
    )


def test_files_without_a_digest_and_leftovers_are_told_and_no_problem(results):
    leftover = results / RUN / f"step-002/delta.safetensors.tmp-{'0' * 32}"
    leftover.write_bytes(b"half")
    (results / "report.html").write_text("<p>old</p>")

    found = verify(results)
    done = CliRunner().invoke(fusegpt_command, ["verify", str(results)])

    assert found.problems == [] and found.leftovers == [leftover]
    assert results / "report.html" in found.unknown
    assert results / "models/tiny/source.json" not in found.unknown  # a step names it
    assert done.exit_code == 0 and "no digest recorded" in done.output
    assert f"{leftover} first: half-written" in done.output


def test_texts_that_a_model_wrote_are_compared_with_their_digest(results):
    file = results / "generated/tiny/own-89abcdef.parquet"
    file.parent.mkdir(parents=True)
    write_windows(file, torch.tensor([[1, 2]]), {"corpus": "generated"})
    assert verify(results).problems == []
    table = pq.read_table(file)
    pq.write_table(table.set_column(0, "input_ids", pa.array([[1, 3]], pa.list_(pa.int32()))), file)
    (problem,) = verify(results).problems
    assert problem.startswith(f"{file}: must hold the windows that were written")
