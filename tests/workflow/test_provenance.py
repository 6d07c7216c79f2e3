"""What the real verbs write down about how each artifact came to be; `verify` believes it."""

from __future__ import annotations

import json

import pytest

from fusegpt.artifacts import read_json, sha256
from fusegpt.cli import fusegpt_command, run
from fusegpt.data.windows import read_meta
from fusegpt.pruning.recipe import resolve
from fusegpt.workflow.verify import verify

RECIPE = {
    "name": "mine",
    "importance": {"metric": "macro_influence"},
    "recovery": {"method": "finetune", "lora_rank": 2, "epochs": 1, "batch_size": 2},
    "finetune": {"sequences": 4},
    "dtype": "float32",
    "seed": 3,
}
MADE = ("fusegpt", "commit", "libraries", "python", "platform", "device")

RUN = resolve(RECIPE["name"], {key: RECIPE[key] for key in RECIPE if key != "name"}).id
KINDS = {
    "dense scores": "scores/tiny/macro_influence-1.json",
    "scores": f"runs/tiny/{RUN}/step-001/scores.json",
    "step": f"runs/tiny/{RUN}/step-001/manifest.json",
    "checkpoint": f"checkpoints/tiny/{RUN}/step-001/fusegpt.json",
    "evaluation": f"evaluations/tiny/{RUN}/step-001/docs.json",
    "table": "tables/study.json",
}


@pytest.fixture(scope="module")
def results(tiny_llama_dir, tmp_path_factory):
    """Every kind of artifact of a run with one step, made by the verbs."""
    top = tmp_path_factory.mktemp("run") / "results"
    text = top.parent / "text.txt"
    text.write_text("Beautiful is better than ugly. Explicit is better than implicit.\n" * 40)
    model, windows = top / "models/tiny", top / "data/tiny/w.parquet"
    chain, recipe = top / f"runs/tiny/{RUN}", top / f"runs/tiny/{RUN}/recipe.json"
    step = chain / "step-001"
    corpora = json.dumps({"mine": {"splits": {"train": str(text), "test": str(text)}}})
    point = f"evaluations/tiny/{RUN}/step-001/docs.json"
    evaluation = {"corpus": "mine", "split": "test", "length": 16, "windows": 4}
    experiment = {
        "name": "study",
        "models": {"tiny": {"num_blocks": 6, "steps": {"0.1": 1}}},
        "recipes": [{"name": "mine", "seed": 3, "id": RUN}],
        "evaluations": ["docs"],
    }
    before = ["--model", chain / "step-000/manifest.json", "--recipe", recipe]
    after = ["--model", step / "manifest.json"]
    for line in (
        ["fetch", "--model", f"dir:{tiny_llama_dir}", "--output", model],
        [
            *("sample", "--model", model, "--corpus", "mine", "--sequences", 4, "--length", 16),
            *("--seed", 3, "--corpora", corpora, "--output", windows),
        ],
        [
            *("start", "--model", model / "source.json", "--recipe-settings", json.dumps(RECIPE)),
            *("--output", chain / "step-000/manifest.json", "--recipe-output", recipe),
        ],
        [
            *("score", "--model", model, "--recipe-settings", json.dumps(RECIPE)),
            *("--calibration", windows, "--output", top / KINDS["dense scores"]),
        ],
        [
            *("score", *before, "--dense-scores", top / KINDS["dense scores"]),
            *("--output", step / "scores.json"),
        ],
        [
            *("fuse", *before, "--scores", step / "scores.json", "--finetune", windows),
            *("--output", step),
        ],
        [
            *("merge", *after, "--recipe", recipe),
            *("--output", top / f"checkpoints/tiny/{RUN}/step-001"),
        ],
        [
            *("evaluate", *after, "--settings", json.dumps(evaluation), "--corpora", corpora),
            *("--dtype", "float32", "--output", top / point),
        ],
        [
            *("table", "--experiment", json.dumps(experiment), "--results", top),
            *("--output", top / "tables/study.csv"),
        ],
    ):
        assert run(fusegpt_command, ["-q", *map(str, line)]) == 0
    return top


def test_what_the_verbs_wrote_is_as_it_says(results):
    found = verify(results)

    assert found.problems == [] and found.unknown == []
    assert found.records == len(KINDS) + len(("source", "start", "training"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_says_how_it_was_made(results, kind):
    notes = read_json(results / KINDS[kind])

    assert set(MADE) <= set(notes["provenance"])
    assert notes["provenance"]["libraries"]["torch"]
    assert notes["seconds"] >= 0
    assert notes.get("memory_gib", notes.get("peak_memory_gib")) > 0
    assert notes.get("parent") or notes["parents"]


def test_settings_and_seeds_are_written_down(results):
    _, scores, step, checkpoint, evaluation, table = (
        read_json(results / x) for x in KINDS.values()
    )
    meta = read_meta(results / "data/tiny/w.parquet").to_json()

    assert (meta["seed"], meta["length"], meta["corpus"]) == (3, 16, "mine")
    assert set(MADE) <= set(meta["provenance"])
    assert step["parameters"] == checkpoint["parameters"] == evaluation["model"]["parameters"]
    assert scores["seed"] == step["seed"] == checkpoint["seed"] == 3
    assert checkpoint["recipe"]["recovery"]["lora_rank"] == 2
    assert evaluation["settings"]["length"] == 16
    assert table["experiment"]["evaluations"] == ["docs"]
    assert scores["inputs"]["calibration"] == sha256(results / "data/tiny/w.parquet")


def test_taken_scores_are_those_that_the_run_would_have_measured(results, tmp_path, capsys):
    chain = results / f"runs/tiny/{RUN}"
    line = ["score", "--model", chain / "step-000/manifest.json"]
    line += ["--recipe", chain / "recipe.json", "--output", tmp_path / "scores.json"]
    windows = ["--calibration", results / "data/tiny/w.parquet"]
    assert run(fusegpt_command, ["-q", *map(str, [*line, *windows])]) == 0
    taken, measured = read_json(results / KINDS["scores"]), read_json(tmp_path / "scores.json")

    same = ("kind", "step", "metric", "settings", "units", "selected", "recipe", "seed", "inputs")
    assert [taken[name] for name in same] == [measured[name] for name in same]
    assert taken["parent"]["sha256"] == measured["parent"]["sha256"]
    other = {**RECIPE, "importance": {"metric": "sleb"}}
    (tmp_path / "recipe.json").write_text(json.dumps(other))
    line[line.index("--recipe") + 1] = tmp_path / "recipe.json"
    assert run(fusegpt_command, [str(x) for x in line]) == 2
    assert "missing option '--calibration' (or '--dense-scores')" in capsys.readouterr().err
    line += ["--dense-scores", results / KINDS["dense scores"]]
    assert run(fusegpt_command, [str(x) for x in line]) == 2
    assert "must be scores by sleb, got those by macro_influence" in capsys.readouterr().err
