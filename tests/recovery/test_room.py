"""Where a tuning's tensors are changes no bit of it; less memory is held where less is there."""

import gc
import logging
import weakref

import pytest
import torch

from fusegpt import free_memory
from fusegpt.errors import ArtifactError
from fusegpt.free_memory import free_bytes
from fusegpt.models.structure.replay import record
from fusegpt.recovery import room
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.room import States, runner, saved_bytes, using
from fusegpt.recovery.settings.group import Fusion
from fusegpt.units import Unit
from tests import tiny

SETTINGS = Fusion(rank=3, lora_rank=3, group_size=3, epochs=2, batch_size=4)
CPU = torch.device("cpu")


def tuned(folder):
    model = tiny.model("llama")
    checkpoint = Checkpoint(folder / "resume.safetensors", "x")
    report = fusion(
        model, Unit("block", 2), tiny.ids(8, 10), SETTINGS, seed=0, checkpoint=checkpoint
    )
    return report, model.module.state_dict()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with using("keep"):
        return tuned(tmp_path_factory.mktemp("kept"))


def test_states_in_a_file_and_activations_twice_give_the_same_bits(kept, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with using("spare"):
        report, weights = tuned(tmp_path / "step-001")
    assert report == kept[0]
    assert all(torch.equal(value, weights[name]) for name, value in kept[1].items())
    assert f"kept in a file in {tmp_path / 'step-001'}" in caplog.text
    assert list((tmp_path / "step-001").iterdir()) == []


def test_memory_that_is_short_is_spared_and_the_log_says_so(kept, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(room, "free_bytes", lambda device: 1000)
    report, weights = tuned(tmp_path)
    assert report.rows == kept[0].rows
    assert all(torch.equal(value, weights[name]) for name, value in kept[1].items())
    assert "kept in a file" in caplog.text
    assert "activations of 3 blocks would take" in caplog.text


def test_memory_that_is_plenty_is_used(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tuned(tmp_path)
    assert "kept in" not in caplog.text and "activations" not in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_has_no_name_while_it_is_used(dtype, tmp_path):
    states = [torch.randn(2, 3, 4).to(dtype) for _ in range(4)]
    with using("spare"):
        store = States(1, CPU, tmp_path)
    store.add(*states[:2])
    store.add(*states[2:])
    assert list(tmp_path.iterdir()) == [] and len(store) == 2
    found = [*store.get(1), *store.get(0)]
    assert all(map(torch.equal, found, [*states[2:], *states[:2]]))


def test_without_a_directory_there_is_no_file():
    with using("spare"):
        assert States(1, CPU, None).place == "memory"


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.os, "posix_fallocate", full)
    with using("spare"):
        store = States(1, CPU, tmp_path)
    with pytest.raises(ArtifactError, match=r"must have room for .* \(no space left on device\)"):
        store.add(torch.zeros(3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral"])
def test_with_activations_computed_twice_gradients_are_equal_and_a_state_a_block_is_kept(family):
    model = tiny.model(family)
    seen = record(model, tiny.ids(4, 12), 1, 4)
    blocks = [model.block(index) for index in (1, 2, 3, 4)]
    weights = [p for block in blocks for p in block.parameters()]
    found, sizes = {}, {}
    for memory in ("keep", "spare"):
        for weight in weights:
            weight.grad = None
            weight.requires_grad_(True)
        with using(memory), torch.enable_grad():
            run = runner(blocks, CPU, "test")
            group = torch.nn.ModuleList(blocks)
            outputs = []
            sizes[memory] = saved_bytes(
                lambda run=run, outputs=outputs: outputs.append(run(seen.calls, seen.hidden_in)),
                group,
            )
            outputs[0].square().mean().backward()
        found[memory] = [weight.grad for weight in weights if weight.grad is not None]
    assert len(found["keep"]) == len(found["spare"]) > 4
    assert all(map(torch.equal, found["keep"], found["spare"]))
    state = seen.hidden_in.nbytes
    assert sizes["spare"] <= (len(blocks) + 1) * state < sizes["keep"] / 2


def test_counting_what_is_kept_keeps_nothing():
    weight = torch.ones(3, 3, requires_grad=True)
    made = []

    def run():
        hidden = (weight @ weight).tanh()
        made.append(weakref.ref(hidden))
        return (hidden @ weight).tanh()

    assert saved_bytes(run, torch.nn.Module()) > 0
    gc.collect()
    assert [alive() for alive in made] == [None]


def test_a_process_may_take_what_its_limit_leaves(monkeypatch):
    machine = free_bytes(CPU)
    assert 0 < machine < 2**50
    limit = free_memory.kernel_table("/proc/self/status")["VmData"] + 2**24
    monkeypatch.setattr(
        free_memory.resource,
        "getrlimit",
        lambda kind: (limit if kind == free_memory.resource.RLIMIT_DATA else -1, -1),
    )
    assert free_bytes(CPU) <= 2**24


GROUP_1 = {"memory.limit_in_bytes": 800, "memory.usage_in_bytes": 300}
GROUP_2 = {"memory.max": 800, "memory.current": 300}
NO_LIMIT_1 = {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 900}
NO_LIMIT_2 = {"memory.max": "max", "memory.current": 900}


@pytest.mark.parametrize(
    "own, groups",
    [
        ("0::/", {"": GROUP_2}),
        ("0::/user/job", {"user/job": GROUP_2, "user": NO_LIMIT_2}),
        ("0::/user/job", {"user/job": NO_LIMIT_2, "user": GROUP_2}),
        ("4:cpu,memory:/job\n0::/", {"memory/job": GROUP_1, "memory": NO_LIMIT_1}),
        ("4:memory:/job/step\n1:cpu:/", {"memory/job/step": NO_LIMIT_1, "memory/job": GROUP_1}),
        ("4:memory:/docker/outside", {"memory": GROUP_1}),  # a container sees its own as the root
    ],
)
def test_a_process_may_take_what_its_control_groups_leave(own, groups, tmp_path, monkeypatch):
    cache = "total_" if "memory:" in own else ""
    for place, files in groups.items():
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")
        rows = f"file 250\nshmem 150\n{cache}inactive_file 60\n{cache}active_file 40\n"
        (folder / "memory.stat").write_text(rows)
    read = free_memory.Path.read_text

    def instead(path, *given, **named):
        return own if str(path) == "/proc/self/cgroup" else read(path, *given, **named)

    monkeypatch.setattr(free_memory.Path, "read_text", instead)
    monkeypatch.setattr(free_memory, "CGROUPS", tmp_path)
    assert free_bytes(CPU) == 800 - 300 + 100  # files go when memory is asked for, /dev/shm stays


def test_processes_that_work_together_share_what_is_free(monkeypatch):
    monkeypatch.setattr(free_memory, "_cgroup_free", lambda: 1200)
    assert free_bytes(CPU) == 1200
    monkeypatch.setattr(free_memory, "processes", lambda: 4)
    assert free_bytes(CPU) == 300


def test_states_in_a_mapped_file_are_not_counted_against_the_limit(monkeypatch):
    status = {"VmRSS": 2**30, "RssFile": 2**30 - 2**20}
    tables = {"/proc/self/status": status}
    monkeypatch.setattr(free_memory, "kernel_table", lambda file: tables.get(file, {}))
    monkeypatch.setenv("FUSEGPT_MEMORY_GIB", "0.5")
    assert free_bytes(CPU) == 2**29 - 2**20
