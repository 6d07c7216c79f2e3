"""Records: what was read is written as it was, and damage ends in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.results.base import check, read, read_object, write
from fusegpt.results.contents import parse_contents
from fusegpt.results.files import Parent, Source, WindowsMeta
from fusegpt.results.models import (
    Checkpoint,
    Evaluation,
    Slice,
    Stored,
    read_checkpoint,
    read_record,
)
from fusegpt.results.point import Point
from fusegpt.results.records import Scores, Start, Step, read_manifest
from fusegpt.results.recovered import Training, Trials
from fusegpt.results.tables import Table
from fusegpt.units import Unit

UNIT = {"granularity": "block", "index": 3}
PARENT = {"path": "../step-000/manifest.json", "sha256": "00"}
FILES = {"model.safetensors": {"sha256": "00", "bytes": 12}}
MODEL = {"num_blocks": 4, "kept": [0, 1, 2], "removed": [UNIT]}
ROW = {
    "task": "docs",
    "metric": "perplexity",
    "value": 12,
    "unit": "exp(nats/token)",
    "higher_is_better": False,
    "num_samples": 3,
    "items": {"of": "00", "statistic": "exp_mean", "values": "1 2 3"},
}
TRIAL = {"unit": UNIT, "score": 0.1, "result": 0.2, "first_loss": None, "seconds": 1.5}
EXAMPLES: dict[type, dict[str, Any]] = {
    Source: {"kind": "model", "source": "dir:x", "num_blocks": 4, "new": 1, "files": FILES},
    WindowsMeta: {
        "corpus": "docs",
        "sequences": 8,
        "length": 16,
        "extras": {"pixel_values": {"dtype": "float32", "shapes": [[1, 3]]}},
    },
    Scores: {
        "kind": "scores",
        "metric": "shapley",
        "settings": {"samples": 8},
        "units": [{**UNIT, "score": 1, "deviation": None}],
        "selected": UNIT,
        "new": [1],
        "seconds": 2.0,
        "parent": PARENT,
    },
    Start: {"kind": "start", "kept": [0, 1], "num_blocks": 2, "parent": PARENT},
    Step: {
        "kind": "step",
        "step": 1,
        "unit": UNIT,
        "score": 0.5,
        "rerank": {"by": "cosine", "candidates": [TRIAL], "chosen": UNIT, "tokens": 3},
        "kept": [0],
        "parent": PARENT,
        "files": FILES,
    },
    Training: {"rows": [{"step": 0, "epoch": 0, "loss": 1.5, "learning_rate": 1e-3, "seen": 2}]},
    Trials: {"fingerprint": "00", "trials": [TRIAL]},
    Checkpoint: {
        **MODEL,
        "kind": "checkpoint",
        "fused": {"2": [3], "attention 1": [0]},
        "steps": [{"step": 1, "unit": UNIT, "group": [2]}],
        "finish": {"method": "lora", "training": [{"step": 0, "loss": 1.0}]},
        "files": FILES,
    },
    Slice: {
        **MODEL,
        "kind": "slice",
        "sparsity": 0.25,
        "hidden_size": 64,
        "width": 48,
        "kept_energy": {"embedding": 0.9},
        "parent": PARENT,
        "data": {},
        "files": FILES,
    },
    Evaluation: {
        "eval": "perplexity",
        "settings": {"length": 32},
        "rows": [ROW],
        "model": {**MODEL, "parameters": 100},
        "seconds": 3,
        "memory_gib": 0.5,
    },
    Stored: {"identity": {"eval": "perplexity"}, "result": {"any": [1, 2]}},
    Table: {"kind": "table", "experiment": {}, "files": FILES, "parents": [PARENT, PARENT]},
}
NEEDED = {
    Source: ["num_blocks", "files.model.safetensors.sha256"],
    Scores: ["metric", "units", "units.0.score", "parent.path"],
    Start: ["parent", "parent.sha256"],
    Step: ["step", "unit", "parent.path", "rerank.candidates.0.result"],
    Training: ["rows", "rows.0.loss"],
    Trials: ["fingerprint", "trials.0.score"],
    Checkpoint: ["num_blocks", "kept", "removed", "steps.0.unit"],
    Slice: ["sparsity"],
    Evaluation: ["rows", "model.parameters", "rows.0.value", "rows.0.items.of"],
    Stored: ["identity", "result"],
    Table: ["experiment", "parents.1.sha256"],
}
CASES = [(model, path) for model, paths in NEEDED.items() for path in paths]


def placed(value: Any, path: str, change: Any) -> Any:
    """A copy with ``change`` at a dotted path; ``...`` takes the key away."""
    copy = json.loads(json.dumps(value))
    at, keys = copy, path.replace("model.safetensors", "model~safetensors").split(".")
    steps = [int(key) if key.isdecimal() else key.replace("~", ".") for key in keys]
    for step in steps[:-1]:
        at = at[step]
    if change is ...:
        del at[steps[-1]]
    else:
        at[steps[-1]] = change
    return copy


def in_order(value: Any) -> Any:
    """The same with the order of keys counting."""
    if isinstance(value, dict):
        return [(key, in_order(entry)) for key, entry in value.items()]
    return [in_order(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_what_was_read_is_written_with_its_keys_as_they_came(model, tmp_path):
    before = tmp_path / "before.json"
    before.write_text(json.dumps(EXAMPLES[model]))

    write(tmp_path / "after.json", read(before, model))

    after = json.loads((tmp_path / "after.json").read_text())
    assert list(after)[-1] == "digest" and len(after.pop("digest")) == 64
    assert after == EXAMPLES[model]
    assert in_order(after) == in_order(EXAMPLES[model])


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"text"', "[{}]"])
def test_a_file_that_holds_no_object_ends_in_one_line(model, text, tmp_path):
    file = tmp_path / "record.json"
    file.write_text(text)

    with pytest.raises(ArtifactError) as caught:
        read(file, model)

    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("model", "path"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_a_missing_key_is_named_with_its_file(model, path, tmp_path):
    file = tmp_path / "record.json"
    file.write_text(json.dumps(placed(EXAMPLES[model], path, ...)))

    with pytest.raises(ArtifactError) as caught:
        read(file, model)

    fault = str(caught.value)
    assert fault.startswith(f"{file}: must be {model.noun}: ")
    assert f"{path}: " in fault and "\n" not in fault


@pytest.mark.parametrize(
    ("model", "path"),
    [case for case in CASES if case != (Stored, "result")],  # which may be any JSON
    ids=lambda case: getattr(case, "__name__", case),
)
def test_a_value_of_the_wrong_type_is_named_with_its_file(model, path, tmp_path):
    wrong = "text" if path in ("experiment", "identity") else {"no": ["such", "type"]}
    file = tmp_path / "record.json"
    file.write_text(json.dumps(placed(EXAMPLES[model], path, wrong)))

    with pytest.raises(ArtifactError) as caught:
        read(file, model)

    assert str(caught.value).startswith(f"{file}: must be {model.noun}: ")
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["12", "true"])
def test_text_is_no_number(text):
    with pytest.raises(ArtifactError, match=r"x: must be .*num_blocks: must be a whole number"):
        check({"num_blocks": text}, Source, "x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.json: cannot be read"):
        read(tmp_path / "gone.json", Source)


def test_several_faults_are_counted():
    with pytest.raises(ArtifactError, match=r"\(and 2 more\)"):
        check({}, Checkpoint, "x")


def test_units_are_units():
    step = check(EXAMPLES[Step], Step, "x")

    assert step.unit == Unit("block", 3) and step.gone == [Unit("block", 3)]
    assert step.rerank.chosen == Unit("block", 3)
    assert step.spent == {}


@pytest.mark.parametrize("value", [3, None, {"index": 3}, {"granularity": "mixed", "index": 3}])
def test_what_is_no_unit_is_refused(value):
    with pytest.raises(ArtifactError, match="unit: must be a unit with granularity and index"):
        check({**EXAMPLES[Step], "unit": value}, Step, "x")


def test_a_record_with_more_keeps_what_it_had_and_adds_at_the_end():
    scores = check(EXAMPLES[Scores], Scores, "x")

    more = scores.plus(seconds=9.0, parents=[Parent(**PARENT)])

    assert list(more.to_json()) == [*EXAMPLES[Scores], "parents"]
    assert more.seconds == 9.0 and more.to_json()["new"] == [1]


def test_an_older_name_of_the_memory_is_read_and_the_newer_written():
    old = {**EXAMPLES[Evaluation], "peak_memory_gib": 0.7}
    del old["memory_gib"]

    result = check(old, Evaluation, "x")

    assert result.memory_gib == 0.7
    assert result.to_json()["memory_gib"] == 0.7 and "peak_memory_gib" not in result.to_json()


def test_a_manifest_is_a_start_or_a_step(chain):
    assert isinstance(read_manifest(chain), Step)
    assert isinstance(read_manifest(chain.parent.with_name("step-000") / "manifest.json"), Start)
    chain.write_text('{"kind": "table"}')
    with pytest.raises(ArtifactError, match=r"kind: must be 'start' or 'step', got 'table'"):
        read_manifest(chain)


def test_a_checkpoint_is_sliced_or_not(tmp_path):
    for model in (Checkpoint, Slice):
        write(tmp_path / "fusegpt.json", model.model_validate(EXAMPLES[model]))
        assert type(read_checkpoint(tmp_path / "fusegpt.json")) is model
        assert type(read_record(tmp_path)) is model


def test_a_directory_without_a_record_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"has none of fusegpt\.json, manifest\.json"):
        read_record(tmp_path)


def test_a_parent_is_found_from_its_child(tmp_path):
    source = tmp_path / "models" / "tiny" / "source.json"
    source.parent.mkdir(parents=True)
    source.write_text("{}")
    child = tmp_path / "scores" / "tiny"

    parent = Parent.of(source.parent, child)

    assert parent == Parent.of(source, child)
    assert parent.path == "../../models/tiny/source.json"
    assert parent.checked(child) == source
    source.write_text("{} ")
    with pytest.raises(ArtifactError, match="checksum must be"):
        parent.checked(child)
    assert Parent.of(tmp_path, child) is None


def test_a_plain_object_is_checked_as_one(tmp_path):
    file = Path(tmp_path / "recipe.json")
    file.write_text("[1]")
    with pytest.raises(ArtifactError, match=r"recipe\.json: must hold a JSON object, got list"):
        read_object(file)


CONTENTS = {
    "name": "study",
    "models": {
        "tiny": {
            "num_blocks": 4,
            "steps": {"0.0": 0, "0.5": 2},
            "mixed_steps": {"0.0": 0, "0.5": 4},
        }
    },
    "recipes": [
        {"name": "dense", "seed": 0, "id": "dense"},
        {"name": "fusegpt", "seed": 0, "id": "fusegpt-1"},
        {"name": "both", "seed": 0, "id": "both-1", "granularity": "mixed"},
        {"name": "slicegpt", "seed": 0, "id": "slicegpt-1", "width": True},
    ],
    "evaluations": ["docs"],
    "curves": {"rank": {"line": {"8": "fusegpt"}}},
}


def test_a_table_shows_depth_and_width_at_each_sparsity():
    shown = list(parse_contents(CONTENTS).shown())

    places = [(one.recipe.name, one.sparsity, one.point.place.name) for one in shown]
    assert places == [
        ("dense", "0", "step-000"),
        ("fusegpt", "0.0", "step-000"),
        ("fusegpt", "0.5", "step-002"),
        ("both", "0.0", "step-000"),
        ("both", "0.5", "step-004"),
        ("slicegpt", "0.0", "step-000"),
        ("slicegpt", "0.5", "sparsity-0.5"),
    ]
    assert [one.point for one in shown if one.sparsity == "0.0"] == [Point.dense("tiny")] * 3
    assert [one.num_units for one in shown][-4:] == [8, 8, 4, 4]


def test_the_contents_of_a_table_are_written_as_they_were_asked():
    contents = parse_contents({key: CONTENTS[key] for key in CONTENTS if key != "curves"})

    assert contents.to_json() == {key: CONTENTS[key] for key in CONTENTS if key != "curves"}
    assert Table(experiment=CONTENTS).contents.curves == {"rank": {"line": {8.0: "fusegpt"}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluatoins": []}, "unknown setting 'evaluatoins'"),
        ({"models": {"tiny": {"num_blocks": 0, "steps": {}}}}, "num_blocks: must be greater"),
        ({"recipes": [CONTENTS["recipes"][1], {**CONTENTS["recipes"][1], "id": "x"}]}, "one id"),
    ],
)
def test_wrong_contents_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_contents({**CONTENTS, **change})
