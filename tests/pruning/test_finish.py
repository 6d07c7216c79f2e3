"""A finish by verbs and in one process: the same bits, whole records, one line for bad input."""

import errno
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fusegpt import finish_model, fuse_model, prune_model, score_model
from fusegpt.cli import fusegpt_command as command
from fusegpt.cli import run
from fusegpt.data.window_files import write_windows
from fusegpt.errors import ArtifactError, ConfigError, DataError, NumericsError, Stopped
from fusegpt.models.checkpoints.load import load
from fusegpt.pruning import finish_job, jobs
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.start import write_start
from fusegpt.recovery.healing import heal
from fusegpt.recovery.healing.answers import answer_windows
from fusegpt.results.base import read, write
from fusegpt.results.history import step_of
from fusegpt.results.models import read_checkpoint
from fusegpt.results.records import AnswersRecord, Step
from fusegpt.runtime import Timer
from fusegpt.signals import stoppable
from fusegpt.workflow.describe import describe
from fusegpt.workflow.verify import verify
from tests import tiny

FINISH = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-3}


def recipe(method="distill", **finish):
    settings = {
        "importance": {"metric": "macro_influence"},
        "recovery": {"method": "none"},
        "finetune": {"sequences": 8, "length": 10},
        "dtype": "float32",
        "chain": "plain",
        "finish": {"method": method, **FINISH, **({"top_k": 16} if method == "distill" else {})},
    }
    settings["finish"] |= finish
    return resolve("healed", settings)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with a dense model and two steps of the chain."""
    folder = tmp_path_factory.mktemp("work") / "results"
    model = tiny.model("llama_tied")
    dense, plain = folder / "models/tiny", recipe().steps
    model.module.save_pretrained(dense)
    notes = {"kind": "model", "num_blocks": 6, "base_model": "someone/tiny"}
    (dense / "source.json").write_text(json.dumps(notes))
    windows = folder / "data/tiny/windows.parquet"
    write_windows(windows, tiny.ids(8, 10).numpy(), {"corpus": "random"})
    steps = folder / f"runs/tiny/{plain.id}"
    manifest = steps / "step-000/manifest.json"
    write_start(manifest, dense / "source.json", plain)
    for step in (1, 2):
        place = steps / f"step-00{step}"
        score_model(manifest, plain, windows, place / "scores.json")
        fuse_model(manifest, plain, place / "scores.json", place)
        manifest = place / "manifest.json"
    return folder, windows, manifest


def weights(directory):
    return AutoModelForCausalLM.from_pretrained(directory).state_dict()


@pytest.mark.parametrize("method", ["distill", "lora"])
def test_one_process_and_the_verbs_leave_the_same_bits(method, results, tmp_path):
    folder, windows, manifest = results
    chosen = recipe(method, **({"train": "all"} if method == "distill" else {}))
    (tmp_path / "healed.yaml").write_text(
        json.dumps(
            {key: value for key, value in chosen.to_json().items() if key not in ("name", "chain")}
        )
    )
    output = folder / f"checkpoints/tiny/{chosen.id}/step-002"
    answers = folder / f"answers/tiny/{method}"
    taught = []
    if method == "distill":
        answer(folder, windows, answers)
        assert {file.name for file in answers.iterdir()} == {
            *("answers.json", "logits.npy", "ids.npy", "rest.npy")
        }
        taught = ["--answers", str(answers / "answers.json")]
    assert not run(
        command,
        [
            "finish",
            "--model",
            str(manifest),
            "--recipe-settings",
            json.dumps(chosen.to_json()),
            "--windows",
            str(windows),
            *taught,
            "--output",
            str(output),
        ],
    )
    prune_model(
        *(folder / "models/tiny", chosen, "0.33", windows, tmp_path / "whole"), finetune=windows
    )
    one, other = weights(tmp_path / "whole"), weights(output)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert sorted(file.name for file in output.parent.iterdir()) == ["step-002"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["healed.yaml", "whole"]

    record = read_checkpoint(output / "fusegpt.json")
    assert record.finish.method == method and record.finish.last_loss < record.finish.first_loss
    assert record.finish.optimizer_steps == len(record.finish.training) == 4
    assert record.recipe_id == chosen.id and record.recipe["finish"]["method"] == method
    point = at_point(chosen)
    assert step_of(folder, point) == manifest
    assert describe(output).recipe_id == chosen.id
    assert verify(folder).problems == []


def answer(folder, windows, output):
    words = ["--model", str(folder / "models/tiny"), "--windows", str(windows), "--top-k", "16"]
    assert not run(command, ["answers", *words, "--dtype", "float32", "--output", str(output)])


def at_point(chosen):
    from fusegpt.results.point import Place, Point

    return Point("tiny", chosen.id, Place.step(2))


def test_a_finish_without_answers_asks_the_dense_model(results, tmp_path):
    folder, windows, manifest = results
    answers = folder / "answers/tiny/again"
    answer(folder, windows, answers)
    finish_model(manifest, recipe(), tmp_path / "one", windows=windows)
    finish_model(manifest, recipe(), tmp_path / "other", windows=windows, answers=answers)
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("module", [finish_job, jobs])
def test_no_deleted_file_is_mapped_while_the_checkpoint_is_written(
    module, results, tmp_path, monkeypatch
):
    folder, windows, manifest = results
    write, mapped = module.publish, []

    def noting(*given, **named):
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped.extend(line for line in lines if str(tmp_path) in line)
        return write(*given, **named)

    monkeypatch.setattr(module, "publish", noting)
    if module is jobs:
        place = folder / "models/tiny"
        prune_model(place, recipe(), "0.33", windows, tmp_path / "x", finetune=windows)
    else:
        finish_model(manifest, recipe(), tmp_path / "x", windows=windows)
    assert mapped == []


def test_a_folder_that_is_not_there_yet_is_made(results, tmp_path):
    folder, windows, _ = results
    where = tmp_path / "new/folder/out"
    prune_model(folder / "models/tiny", recipe("full"), "0.33", windows, where, finetune=windows)
    assert read_checkpoint(where / "fusegpt.json").finish.method == "full"


def killed_in_the_third_call(patch):
    """Let answers be saved after each pair of windows, and die in the third; return the calls."""
    from fusegpt.recovery.healing import answers

    real, asked = answers.head_logits, []

    def dying(*arguments):
        asked.append(arguments)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    patch.setattr(answers, "EVERY_SECONDS", 0.0)
    patch.setattr(answers, "head_logits", dying)
    return asked


def stopped_in_the_second_step(patch):
    """Let a finish be asked to stop while it takes its second optimiser step."""
    real, calls = heal._propagate, []

    def stopping(*given):
        calls.append(torch.is_grad_enabled())
        if sum(calls) == 3:  # of the second optimiser step
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    patch.setattr(heal, "_propagate", stopping)


def test_answers_go_on_where_a_killed_job_was(results, tmp_path, monkeypatch):
    folder, windows, _ = results
    dense = load(folder / "models/tiny", dtype="float32")
    answer_windows(dense, windows, tmp_path / "whole", top_k=4)
    asked = killed_in_the_third_call(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        answer_windows(dense, windows, tmp_path / "killed", top_k=4)
    answer_windows(dense, windows, tmp_path / "killed", top_k=4)
    assert len(asked) == 3 + 2  # of four pairs of windows, two were done
    for name in ("logits.npy", "ids.npy", "rest.npy"):
        whole, killed = ((tmp_path / x / name).read_bytes() for x in ("whole", "killed"))
        assert whole == killed, name


@pytest.mark.parametrize("change", ["teacher", "bit"])
def test_answers_of_another_teacher_or_damaged_ones_are_not_gone_on_with(
    change, results, tmp_path, monkeypatch, caplog
):
    folder, windows, _ = results
    tiny.model("llama_tied", seed=5).module.save_pretrained(tmp_path / "other")
    one = load(folder / "models/tiny", dtype="float32")
    two = one if change == "bit" else load(tmp_path / "other", dtype="float32")
    with monkeypatch.context() as patch:
        killed_in_the_third_call(patch)
        with pytest.raises(KeyboardInterrupt):
            answer_windows(one, windows, tmp_path / "out", top_k=4)
    if change == "bit":
        ids = np.load(tmp_path / "out/ids.npy", mmap_mode="r+")
        ids[1, 0, 0] ^= 1
        ids.flush()
    answer_windows(two, windows, tmp_path / "out", top_k=4)
    answer_windows(two, windows, tmp_path / "whole", top_k=4)
    for name in ("logits.npy", "ids.npy", "rest.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert ("not what was written before" in caplog.text) == (change == "bit")


@pytest.mark.parametrize("temperature", [1e-320, 1e300])
def test_answers_at_a_temperature_that_leaves_no_numbers_are_refused(
    temperature, results, tmp_path
):
    folder, windows, _ = results
    model = load(folder / "models/tiny", dtype="float32")
    with pytest.raises(NumericsError, match="NaN or infinite in float32, at temperature "):
        answer_windows(model, windows, tmp_path / "out", top_k=4, temperature=temperature)
    assert not (tmp_path / "out" / "answers.json").exists()


def test_windows_that_cannot_be_read_leave_no_directory_behind(results, tmp_path):
    folder, _, _ = results
    (tmp_path / "windows.parquet").write_text("none")
    model = load(folder / "models/tiny", dtype="float32")
    with pytest.raises(ArtifactError, match="not a readable parquet file"):
        answer_windows(model, tmp_path / "windows.parquet", tmp_path / "out", top_k=4)
    assert not (tmp_path / "out").exists()


def test_answers_that_find_no_room_are_refused_before_the_teacher_runs(
    results, tmp_path, monkeypatch
):
    folder, windows, _ = results

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = load(folder / "models/tiny", dtype="float32")
    monkeypatch.setattr("fusegpt.recovery.healing.answers._answer_rows", full)
    monkeypatch.setattr("os.posix_fallocate", lambda f, start, size: size < 2000 or full())
    with pytest.raises(ArtifactError, match=r"room for 1.99e-05 GiB of answers .no space left on"):
        answer_windows(model, windows, tmp_path / "out", top_k=48)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_teacher_whose_logits_are_no_numbers_is_named(results, tmp_path):
    folder, windows, _ = results
    shutil.copytree(folder / "models/tiny", tmp_path / "odd")
    tensors = load_file(tmp_path / "odd/model.safetensors")
    tensors["model.norm.weight"].fill_(torch.inf)
    save_file(tensors, tmp_path / "odd/model.safetensors", {"format": "pt"})
    model = load(tmp_path / "odd", dtype="float32")
    with pytest.raises(NumericsError, match="odd: the teacher's logits of windows 0 to 1 are NaN"):
        answer_windows(model, windows, tmp_path / "answers", top_k=4)
    assert not (tmp_path / "answers/answers.json").exists()


def test_a_finish_is_not_resumed_with_another_teacher(results, tmp_path, monkeypatch):
    folder, windows, manifest = results
    other = tmp_path / "other"
    tiny.model("llama_tied", seed=5).module.save_pretrained(other)
    given = {"windows": windows, "teacher": other}
    with monkeypatch.context() as patch, stoppable():
        stopped_in_the_second_step(patch)
        dense = {**given, "teacher": folder / "models/tiny"}
        with pytest.raises(Stopped):
            finish_model(manifest, recipe(teacher="big"), tmp_path / "one", **dense)
    for name in ("one", "whole"):
        finish_model(manifest, recipe(teacher="big"), tmp_path / name, **given)
    one, whole = weights(tmp_path / "one"), weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[name]) for name, value in one.items())


def test_a_stopped_finish_saves_its_position_and_ends_with_the_same_bits(
    results, tmp_path, monkeypatch, capsys
):
    _, windows, manifest = results
    words = ["--recipe-settings", json.dumps(recipe().to_json()), "--windows", str(windows)]
    words = ["finish", "--model", str(manifest), *words, "--output"]
    assert not run(command, [*words, str(tmp_path / "whole")])
    stopped_in_the_second_step(monkeypatch)
    assert run(command, [*words, str(tmp_path / "stopped")]) == 143
    assert "saved after optimiser step 2 of 4" in capsys.readouterr().err
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["stopped.resume.safetensors", "whole"]
    monkeypatch.undo()
    with safe_open(tmp_path / left[0], framework="numpy") as file:
        before = float(file.metadata()["seconds"])
    monkeypatch.setattr(Timer, "seconds", 0.0)
    assert not run(command, [*words, str(tmp_path / "stopped")])
    assert 0 < before == read_checkpoint(tmp_path / "stopped" / "fusegpt.json").finish.seconds
    assert "resumed after optimiser step 2" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stopped", "whole"]
    one, other = ((tmp_path / x / "model.safetensors").read_bytes() for x in ("stopped", "whole"))
    assert one == other


def test_what_does_not_fit_is_refused_in_one_line(results, tiny_llama_dir, tmp_path):
    folder, windows, manifest = results
    answers, output = folder / "answers/tiny/few", tmp_path / "out"
    common = ["--windows", str(windows), "--dtype", "float32", "--output"]
    model = ["answers", "--model", str(folder / "models/tiny")]
    assert run(command, [*model, "--top-k", "129", *common, str(tmp_path / "many")]) == 2
    assert run(command, [*model, "--top-k", "some", *common, str(tmp_path / "many")]) == 2
    assert not run(command, [*model, "--top-k", "4", *common, str(answers)])
    given = {"windows": windows}
    with pytest.raises(DataError, match="must be made with top_k 16 and temperature 1, has 4 and"):
        finish_model(manifest, recipe(), output, answers=answers, **given)
    other = tmp_path / "other.parquet"
    write_windows(other, tiny.ids(8, 10, seed=9).numpy(), {"corpus": "random"})
    with pytest.raises(DataError, match="are to other windows; make them anew"):
        finish_model(manifest, recipe(), output, answers=answers, windows=other)
    with pytest.raises(ConfigError, match="has no finish; use fusegpt merge"):
        finish_model(manifest, recipe().steps, output, **given)
    with pytest.raises(ConfigError, match="finish: learns from no teacher"):
        finish_model(manifest, recipe("full"), output, answers=answers, **given)
    with pytest.raises(ConfigError, match="--answers are a teacher's already; leave out --teacher"):
        dense = folder / "models/tiny"
        finish_model(manifest, recipe(), output, answers=answers, teacher=dense, **given)
    with pytest.raises(ConfigError, match="teacher: is 'big'; give its directory with --teacher"):
        finish_model(manifest, recipe(teacher="big"), output, **given)
    with pytest.raises(ConfigError, match="teacher: is not given, so the dense model answers; lea"):
        finish_model(manifest, recipe(), output, teacher=dense, **given)
    for change, message in (
        (
            {"dtype": "bfloat16"},
            "must be answers in float32, as recipe 'healed' computes, are in b",
        ),
        ({"parent": {"path": "x", "sha256": "0"}}, "must be answers of the dense model, .*, are t"),
    ):
        record = read(answers / "answers.json", AnswersRecord)
        write(answers / "answers.json", record.plus(**change))
        with pytest.raises(DataError, match=message):
            finish_model(manifest, recipe(top_k=4), output, answers=answers, **given)
        write(answers / "answers.json", record)
    large = tmp_path / "large"
    tiny.model("llama_tied", vocab_size=192).module.save_pretrained(large)
    (large / "model.safetensors").unlink()  # said before its weights are read
    with pytest.raises(DataError, match="must have the model's vocabulary of 128 tokens, has 192"):
        finish_model(manifest, recipe(teacher="big"), output, teacher=large, **given)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama_dir / name, large)
    foreign = tmp_path / "foreign.parquet"
    write_windows(foreign, tiny.ids(8, 10).numpy(), {"tokenizer_sha256": "0" * 64})
    with pytest.raises(DataError, match=r"than that of .*large; sample them again, or take a"):
        finish_model(manifest, recipe(teacher="big"), output, windows=foreign, teacher=large)
    with pytest.raises(DataError, match=r"warmup_steps: must be below the 4 optimiser .* got 4"):
        finish_model(manifest, longer(warmup_steps=4), output, **given)
    with pytest.raises(
        DataError, match="one batch of 8 windows and one optimiser step, got 4 windows"
    ):
        finish_model(
            manifest,
            recipe("full", batch_size=8, tokens=80, windows={"length": 8}),
            output,
            windows=short(tmp_path),
        )
    with pytest.raises(ConfigError, match=r"recipes.plain: has no finish; leave out --finish"):
        dense = folder / "models/tiny"
        prune_model(dense, recipe().steps, "0.33", windows, output, finish=windows)
    with pytest.raises(DataError, match="trains: give its windows with --finetune"):
        prune_model(folder / "models/tiny", recipe("full"), "0.33", windows, output)
    assert not output.exists()


def longer(**finish):
    """A recipe that asks for more windows than there are in the end."""
    return recipe("full", windows={"sequences": 16}, **finish)


def short(folder):
    write_windows(folder / "short.parquet", tiny.ids(4, 8).numpy(), {"corpus": "random"})
    return folder / "short.parquet"


def test_masks_of_a_file_say_what_is_learned(results, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fusegpt.data.streamed import stream_windows

    folder, _, _ = results
    ids = tiny.ids(4, 6)

    def file(**masks):
        columns = {"input_ids": ids.tolist(), **{k: [v] * 4 for k, v in masks.items()}}
        pq.write_table(pa.table(columns), tmp_path / "masked.parquet")
        return stream_windows(folder / "models/tiny", tmp_path / "masked.parquet", tmp_path)

    assert file().targets(0, 4).all() and torch.equal(file().tokens(1, 3), ids[1:3])
    found = file(mask=[True] * 5 + [False], answers=[False] * 3 + [True] * 3).targets(0, 1)
    assert found.tolist() == [[False, False, True, True, False]]
    with pytest.raises(DataError, match=r"masks \(answers\) leave no token to learn"):
        file(answers=[True] + [False] * 5)


def test_what_was_undone_stands_in_the_step_the_checkpoint_and_the_card(
    results, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO", "fusegpt")
    folder, windows, _ = results
    wild = {"learning_rate": 30.0, "epochs": 1, "batch_size": 4}
    tuning = {"method": "fusion", "loss": "mse", "rank": 4, "lora_rank": 4, "group_size": 3}
    chosen = recipe("full", **wild, clip_norm=0.0, train="all").to_json()
    chosen |= {"chain": None, "recovery": {**tuning, **wild, "coefficient_learning_rate": 30.0}}
    chosen = resolve(chosen.pop("name"), chosen)
    before, place = tmp_path / "step-000/manifest.json", tmp_path / "step-001"
    write_start(before, folder / "models/tiny/source.json", chosen.steps)
    score_model(before, chosen.steps, windows, place / "scores.json")

    fuse_model(before, chosen.steps, place / "scores.json", place, finetune=windows)
    rising = itertools.count()
    monkeypatch.setattr(heal, "total_loss", lambda *_: float(next(rising)))
    finish_model(place / "manifest.json", chosen, tmp_path / "out", windows=windows)

    assert read(place / "manifest.json", Step).undone
    record = read_checkpoint(tmp_path / "out/fusegpt.json")
    assert record.steps[0].undone and record.finish.undone
    card = (tmp_path / "out/README.md").read_text()
    assert "tunings undone because their loss rose: 2 of 2\n" in card and "(undone)\n" in card
    assert caplog.text.count(" (undone), ") == 2
