"""Verbs that write: alone with their output, and clear about memory."""

from __future__ import annotations

import json
import os
import threading
import time
from types import SimpleNamespace

import click
import pytest
import torch

from fusegpt import locks
from fusegpt.cli import VERBS, fusegpt_command, run
from fusegpt.cli.guard import WRITERS, guarded, in_words
from fusegpt.cli.options import output_path
from fusegpt.cli.places import FILES
from fusegpt.cli.ranks import splits
from fusegpt.locks import lock_path, sole_writer
from tests.waiting import wait_until


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


def test_every_verb_that_computes_has_a_device_and_an_output_of_its_own():
    """Else two of them share a GPU while another is idle, and a signal saves nothing."""
    options = {verb: {one.name for one in entry.load().params} for verb, entry in VERBS.items()}
    computing = {verb for verb, names in options.items() if {"device", "output"} <= names}
    assert computing - WRITERS.keys() == set()


@pytest.mark.parametrize("device", ["potato", "cuda:999", "cpux2"])
@pytest.mark.parametrize("verb", ["generate", "score"])
def test_a_device_that_is_not_there_is_one_line(verb, device, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    output = place(tmp_path, verb)
    given = ["--model", str(tmp_path / "model"), "--device", device, "--output", str(output)]
    assert run(fusegpt_command, [verb, *given]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("fusegpt: device: ") and device in said
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def place(folder, verb):
    """A place of the kind that a verb writes."""
    return folder / f"out{FILES.get(verb, ('',))[0]}"


@pytest.mark.parametrize("verb", WRITERS)
def test_a_verb_leaves_with_75_when_its_output_is_being_written(
    verb, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FUSEGPT_LOCK_WAIT", "0")
    done = []
    output = place(tmp_path, verb)
    with sole_writer(output):
        code = run(writer(verb, done.append), ["--output", str(output)])
    assert code == 75 and not done
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("fusegpt: ") and "writes this output; try again when it ended" in line


def test_a_wrong_wait_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FUSEGPT_LOCK_WAIT", "soon")
    assert run(writer("score", print), ["--output", str(tmp_path / "out.json")]) == 2
    assert "FUSEGPT_LOCK_WAIT: must be seconds, got 'soon'" in capsys.readouterr().err


@pytest.fixture
def somebody_waits(monkeypatch):
    """An event that is set when a process or thread waits for a lock."""
    event = threading.Event()

    def wait(seconds: float) -> None:
        event.set()
        time.sleep(seconds)

    monkeypatch.setattr(locks, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
    return event


@pytest.mark.parametrize("same", [True, False])
def test_a_successor_keeps_what_the_one_it_waited_for_wrote_if_the_work_is_the_same(
    tmp_path, same, somebody_waits
):
    output = tmp_path / "out.json"
    starts = []

    def body(path):
        starts.append(path)
        assert somebody_waits.wait(240)
        path.write_text("{}")

    command = writer("score", body)
    first = threading.Thread(target=run, args=(command, ["--output", str(output)]))
    first.start()
    wait_until(lambda: starts)
    assert run(command if same else writer("evaluate", body), ["--output", str(output)]) == 0
    first.join()
    assert len(starts) == (1 if same else 2)


def test_a_successor_works_again_when_a_listed_file_is_gone(tmp_path, somebody_waits):
    starts = []

    def body(path):
        starts.append(path)
        path.mkdir(exist_ok=True)
        listed = {"delta.safetensors": {"sha256": "0", "bytes": 1}}
        assert somebody_waits.wait(240)
        (path / "manifest.json").write_text(json.dumps({"files": listed}))

    arguments = ["--output", str(tmp_path / "step-001")]
    command = writer("fuse", body)
    first = threading.Thread(target=run, args=(command, arguments))
    first.start()
    wait_until(lambda: starts)
    assert run(command, arguments) == 0
    first.join()
    assert len(starts) == 2


HEX = "0123456789abcdef" * 2


def test_what_a_killed_writer_left_half_written_is_removed(tmp_path):
    step = tmp_path / "step-001"
    (tmp_path / f"step-001.tmp-{HEX}").mkdir()
    (tmp_path / "step-001.tmp-mine").mkdir()
    step.mkdir()
    (step / f"delta.safetensors.tmp-{HEX}").write_text("half")
    (step / f"scores.json.tmp-{HEX}").write_text("of another verb")

    assert run(writer("fuse", lambda path: None), ["--output", str(step)]) == 0

    assert sorted(os.listdir(tmp_path)) == ["step-001", "step-001.tmp-mine"]
    assert os.listdir(step) == [f"scores.json.tmp-{HEX}"]
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
    assert run(fusegpt_command, [verb, "--output", str(place(tmp_path, verb))]) == 77
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


def test_another_runtime_error_is_one_line_and_keeps_its_trace_in_a_report(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(path):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("fusegpt.registry.Entry.load", lambda self: plain(fail))
    assert run(fusegpt_command, ["fuse", "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.strip()
    report = next(tmp_path.glob("fusegpt-error-*.txt"))
    assert said == (
        f"fusegpt: unforeseen RuntimeError: shapes differ; a report for the authors is in {report}"
    )
    assert 'raise RuntimeError("shapes differ")' in report.read_text()


@pytest.mark.parametrize(
    ("verb", "recipe", "outcome"),
    [
        ("score", "fusegpt", "device: score works in one process, got 'cpux2'; leave out the num"),
        ("fuse", "macro_influence", ["cpu"]),
        ("fuse", "fusegpt", ["cpu", 2]),
        ("finish", "macro_influence_distill", ["cpu", 2]),
    ],
)
def test_what_cannot_be_shared_is_done_by_one_process(
    verb, recipe, outcome, tmp_path, monkeypatch, capsys
):
    done = []

    @click.command()
    @click.option("--output", type=output_path)
    @click.option("--device")
    @click.option("--recipe")
    def command(output, device, recipe):
        done.append(device)

    def ranks(verb, given, count, devices):
        done.extend([given["device"], count])

    monkeypatch.setattr("fusegpt.cli.guard.run_ranks", ranks)
    given = ["--device", "cpux2", "--recipe", recipe, "--output", str(place(tmp_path, verb))]
    code = run(guarded(verb, command), given)
    if isinstance(outcome, str):
        assert code == 2 and outcome in capsys.readouterr().err and not done
    else:
        assert code == 0 and done == outcome


def test_processes_share_an_evaluation_where_one_of_them_can_be_shared():
    def asked(*names):
        return {"entries": [(name, {"eval": name}) for name in names], "name": "perplexity"}

    assert splits("evaluate", asked("speed", "perplexity")) and splits("evaluate", asked())
    assert splits("evaluate", asked("zero_shot")) and not splits("evaluate", asked("speed"))
