"""Verbs that write: alone with their output, and clear about memory."""

from __future__ import annotations

import json
import os
import threading
import time

import click
import pytest
import torch

from fusegpt.cli import VERBS, fusegpt_command, run
from fusegpt.cli.guard import WRITERS, guarded, in_words
from fusegpt.cli.options import output_path
from fusegpt.locks import lock_path, sole_writer


def plain(body) -> click.Command:
    """A verb with a body of ours."""

    @click.command()
    @click.option("--output", type=output_path)
    def command(output):
        body(output)

    return command


def writer(verb: str, body) -> click.Command:
    """The same, in the guard."""
    return guarded(verb, plain(body))


@pytest.mark.parametrize("verb", WRITERS)
def test_every_writing_verb_has_an_output_to_lock(verb):
    command = fusegpt_command.get_command(click.Context(fusegpt_command), verb)
    assert verb in VERBS
    assert "output" in {parameter.name for parameter in command.params}


@pytest.mark.parametrize("verb", WRITERS)
def test_a_verb_leaves_with_75_when_its_output_is_being_written(
    verb, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FUSEGPT_LOCK_WAIT", "0")
    done = []
    with sole_writer(tmp_path / "out"):
        code = run(writer(verb, done.append), ["--output", str(tmp_path / "out")])
    assert code == 75 and not done
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("fusegpt: ") and "writes this output; try again when it ended" in line


def test_a_wrong_wait_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FUSEGPT_LOCK_WAIT", "soon")
    assert run(writer("score", print), ["--output", str(tmp_path / "out")]) == 2
    assert "FUSEGPT_LOCK_WAIT: must be seconds, got 'soon'" in capsys.readouterr().err


@pytest.mark.parametrize("same", [True, False])
def test_a_successor_keeps_what_the_one_it_waited_for_wrote_if_the_work_is_the_same(tmp_path, same):
    output = tmp_path / "out"
    starts = []

    def body(path):
        starts.append(path)
        if len(starts) == 1:
            time.sleep(0.8)
        (path / "other.json").write_text("{}") if path.is_dir() else path.write_text("{}")

    command = writer("score", body)
    first = threading.Thread(target=run, args=(command, ["--output", str(output)]))
    first.start()
    while not starts:
        time.sleep(0.02)
    assert run(command if same else writer("sample", body), ["--output", str(output)]) == 0
    first.join()
    assert len(starts) == (1 if same else 2)


def test_a_successor_works_again_when_a_listed_file_is_gone(tmp_path):
    starts = []

    def body(path):
        starts.append(path)
        path.mkdir(exist_ok=True)
        listed = {"delta.safetensors": {"sha256": "0", "bytes": 1}}
        time.sleep(0.8 if len(starts) == 1 else 0)
        (path / "manifest.json").write_text(json.dumps({"files": listed}))

    arguments = ["--output", str(tmp_path / "step-001")]
    command = writer("fuse", body)
    first = threading.Thread(target=run, args=(command, arguments))
    first.start()
    while not starts:
        time.sleep(0.02)
    assert run(command, arguments) == 0
    first.join()
    assert len(starts) == 2


def test_what_a_killed_writer_left_half_written_is_removed(tmp_path):
    step = tmp_path / "step-001"
    (tmp_path / "step-001.tmp-abc").mkdir()
    step.mkdir()
    (step / "delta.safetensors.tmp-abc").write_text("half")
    (step / "scores.json.tmp-def").write_text("of another verb")

    assert run(writer("fuse", lambda path: None), ["--output", str(step)]) == 0

    assert os.listdir(tmp_path) == ["step-001"]
    assert os.listdir(step) == ["scores.json.tmp-def"]
    assert not lock_path(step).exists()


CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.80 GiB of"
    " which 3.10 GiB is free. Process 1 has 136.70 GiB memory in use."
)
CPU = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    ("verb", "error", "said"),
    [
        (
            "fuse",
            torch.OutOfMemoryError(CUDA),
            "fusegpt: fuse: out of memory on GPU 0 (139.80 GiB), 20.00 GiB more were needed,"
            " 3.10 GiB are free; lower finetune.length, or choose another device",
        ),
        (
            "score",
            RuntimeError(CPU + " to allocate 8 bytes. Error code 12 (Cannot allocate memory)"),
            "fusegpt: score: out of memory on this machine, 8 bytes more were needed;"
            " lower calibration.batch_size",
        ),
        ("sample", MemoryError(), "fusegpt: sample: out of memory on this machine; use a machine"),
    ],
)
def test_out_of_memory_is_one_line_and_77(verb, error, said, tmp_path, monkeypatch, capsys):
    def fail(path):
        raise error

    monkeypatch.setattr("fusegpt.registry.Entry.load", lambda self: plain(fail))
    assert run(fusegpt_command, [verb, "--output", str(tmp_path / "out")]) == 77
    assert capsys.readouterr().err.strip().startswith(said)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            "fusegpt",
            "lower finetune.length, recovery.group_size, recovery.rank, recovery.lora_rank or"
            " recovery.batch_size, or choose another device",
        ),
        ("macro_influence", "lower finetune.length, or choose another device"),
    ],
)
def test_what_lowers_memory_is_what_the_recipes_recovery_says(recipe, said):
    assert said in str(in_words("fuse", MemoryError(), recipe))


def test_another_runtime_error_keeps_its_trace(tmp_path, monkeypatch):
    def fail(path):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("fusegpt.registry.Entry.load", lambda self: plain(fail))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(fusegpt_command, ["fuse", "--output", str(tmp_path / "out")])
