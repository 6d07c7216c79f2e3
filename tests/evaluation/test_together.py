"""Several evaluations in one process: one loaded model, each result for itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fusegpt.models.checkpoints.load as load_module
from fusegpt.artifacts import STAGE_VERSION
from fusegpt.cli import fusegpt_command, run
from fusegpt.evaluation.settings import Classification
from fusegpt.evaluation.store import model_digest
from fusegpt.evaluation.together import Asked

TEXT = "beautiful is better than ugly, explicit is better than implicit " * 200
DOCS = {"corpus": "mine", "split": "test", "length": 32, "windows": 4}


class Place:
    """A store, a corpus, and a count of the models that were loaded."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self.loads = folder, model, 0
        self.text = folder / "mine.txt"
        self.text.write_text(TEXT)

    def entry(self, **settings) -> dict:
        corpora = {"mine": {"splits": {"test": str(self.text)}}}
        settings = {**DOCS, **settings}
        return {"eval": "perplexity", "dtype": "float32", "settings": settings, "corpora": corpora}

    def evaluate(self, *more: str, **entries: dict) -> int:
        line = ["evaluate", "--model", str(self.model), "--store", str(self.folder / "store")]
        for name, entry in entries.items():
            line += ["--evaluation", f"{name}={json.dumps(entry)}"]
            line += ["--output", str(self.folder / f"{name}.json")]
        return run(fusegpt_command, [*line, *more])

    def result(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())


@pytest.fixture
def place(tmp_path, tiny_llama_dir, monkeypatch):
    made, real = Place(tmp_path, tiny_llama_dir), load_module.load

    def counted(*arguments, **options):
        made.loads += 1
        return real(*arguments, **options)

    monkeypatch.setattr(load_module, "load", counted)
    return made


def rows(result: dict) -> list[tuple]:
    return [(row["task"], row["metric"], row["value"]) for row in result["rows"]]


def test_one_loaded_model_serves_all_and_changes_no_value(place):
    assert place.evaluate(docs=place.entry(), short=place.entry(windows=2)) == 0
    assert place.loads == 1
    together = place.result("short")
    assert place.evaluate("--store", str(place.folder / "2"), short=place.entry(windows=2)) == 0

    assert rows(place.result("short")) == rows(together)
    assert together["settings"]["windows"] == 2
    assert together["provenance"] and together["memory_gib"] > 0


def test_the_memory_of_an_evaluation_is_not_that_of_an_earlier_one(place, monkeypatch):
    began = []
    monkeypatch.setattr("fusegpt.runtime.reset_peak_memory", lambda: began.append(1) or False)

    assert place.evaluate(docs=place.entry(), short=place.entry(windows=2)) == 0

    assert len(began) == 2
    assert place.result("docs")["memory_gib"] > 0
    assert place.result("short")["memory_gib"] is None  # the system cannot tell


def test_what_was_measured_is_read_back_without_a_model(place):
    entries = {"docs": place.entry(), "short": place.entry(windows=2)}
    place.evaluate(**entries)
    before = place.result("docs")
    (place.folder / "docs.json").unlink()

    assert place.evaluate(**entries) == 0

    assert place.loads == 1
    assert place.result("docs") == before
    place.evaluate(**entries, long=place.entry(length=64))
    assert place.loads == 2
    assert place.result("docs") == before


@pytest.mark.parametrize("change", ["settings", "dtype", "text", "version"])
def test_what_a_result_follows_from_is_in_its_key(place, change, monkeypatch):
    place.evaluate(docs=place.entry())
    entry = place.entry(bos="none") if change == "settings" else place.entry()
    if change == "dtype":
        entry["dtype"] = "bfloat16"
    if change == "text":
        place.text.write_text(TEXT.replace("ugly", "fair"))
    if change == "version":
        monkeypatch.setitem(STAGE_VERSION, "evaluate", 99)

    assert place.evaluate(docs=entry) == 0

    assert place.loads == 2


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """A task file that is named by its path, and the data that it names."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    splits = "splits: {train: train.jsonl, test: test.jsonl}"
    (tmp_path / "mine.yaml").write_text(f"template: '{{text}} It was'\n{splits}\n")
    return tmp_path / "mine.yaml"


def key_of(entries=None):
    settings = Classification(tasks=["mine.yaml"])
    asked = Asked("classification", settings, entries or {}, Path("out.json"))
    return asked.key("model", "float32")


@pytest.mark.parametrize("changed", ["mine.yaml", "train.jsonl", "test.jsonl"])
def test_a_task_file_of_ones_own_and_its_data_are_in_the_key(own_task, changed):
    before = key_of()
    file = own_task.with_name(changed)
    file.write_text(file.read_text().replace("t", "T"))
    assert key_of() != before


def test_data_in_place_of_those_of_a_task_file_are_in_the_key(own_task):
    entry = {"mine": {"splits": {"train": "train.jsonl", "test": "part-*.jsonl"}}}
    part = own_task.with_name("part-a.jsonl")
    part.write_text("one")
    before = key_of(entry)
    own_task.with_name("test.jsonl").write_text("is not read")
    assert key_of(entry) == before
    part.write_text("other")
    assert key_of(entry) != before


def test_the_version_of_a_package_of_data_is_in_the_key(own_task, monkeypatch):
    entry = {"mine": {"splits": {"train": "a.jsonl", "test": "b.jsonl"}, "package": "data"}}
    keys = []
    for version in ("1", "2"):
        monkeypatch.setattr("importlib.metadata.version", lambda name, found=version: found)
        keys.append(key_of(entry))
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "preprocessor_config.json", "special_tokens_map.json"]
)
def test_all_that_decides_what_a_foreign_model_says_is_in_its_digest(tmp_path, name):
    for file in ("config.json", name):
        (tmp_path / file).write_text("{}")
    before = model_digest(tmp_path)
    (tmp_path / "README.md").write_text("text")
    assert model_digest(tmp_path) == before
    (tmp_path / name).write_text('{"other": 1}')
    assert model_digest(tmp_path) != before


def test_a_kill_loses_one_evaluation(place, monkeypatch):
    import fusegpt.evaluation.run as run_module

    real, started = run_module.run, []

    def killed(evaluation, plan, *arguments, **options):
        started.append(plan.protocol["windows"])
        if started == [4, 2]:
            raise KeyboardInterrupt
        return real(evaluation, plan, *arguments, **options)

    monkeypatch.setattr(run_module, "run", killed)
    entries = {"docs": place.entry(), "short": place.entry(windows=2)}

    assert place.evaluate(**entries) == 130
    assert place.result("docs")["rows"] and not (place.folder / "short.json").exists()
    assert place.evaluate(**entries) == 0
    assert started == [4, 2, 2]


def test_what_cannot_be_measured_is_refused_before_anything_is(place, capsys):
    wrong = {"docs": place.entry(), "short": place.entry(length=4096)}

    assert place.evaluate(**wrong) == 2

    assert "must be at most 512" in capsys.readouterr().err.splitlines()[-1]
    assert place.loads == 0 and not (place.folder / "docs.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--evaluation", "docs"), "must be NAME={eval, dtype, settings, corpora, tasks} in JSON"),
        (("--output", "other.json"), "--output: must be one NAME.json for each evaluation"),
    ],
)
def test_mistakes_are_one_line(place, capsys, more, message):
    assert place.evaluate(*more, docs=place.entry()) == 2
    assert message in capsys.readouterr().err


def test_two_dtypes_are_two_processes(place, capsys):
    half = {**place.entry(), "dtype": "bfloat16"}

    assert place.evaluate(docs=place.entry(), short=half) == 2
    assert "all must have one dtype, got bfloat16, float32" in capsys.readouterr().err
