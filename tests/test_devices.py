"""A GPU for each process. Nothing here touches CUDA: a device_lock is a file lock and a name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fusegpt.devices import candidates, device_lock, kind_and_count
from fusegpt.errors import BusyError, ConfigError

LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-c6d4f1ef-42e4-6de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  0: (UUID: MIG-97a5c1d6-bd37-5a4e-9e2a-6e8b3b0d2a11)
  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-c6d4f1ef-42e4-6de3-91c7-45d71c87eb3f/2/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aba0fbd8-d3b1-4f6a-a2f9-8d2a6ef1cd0e)
"""
"""What ``nvidia-smi -L`` prints; drivers before 470 name instances as the second one."""

TAKE = """
import os, time
from fusegpt.devices import device_lock
with device_lock("cuda"):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    time.sleep(3600)
"""


@pytest.fixture(autouse=True)
def _two_gpus(tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FUSEGPT_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("FUSEGPT_GPUS", "0,1")


@contextlib.contextmanager
def start() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with a device of its own, which it says, until it is killed at the end."""
    command = [sys.executable, "-c", TAKE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_two_processes_get_different_devices_and_a_third_waits_until_one_is_killed():
    with start() as (first, one), start() as (_, two):
        assert {one, two} == {"0", "1"}
        with pytest.raises(BusyError, match=r"every GPU is locked \(0, 1\)"):
            with device_lock("cuda", wait_seconds=0):
                pass
        first.send_signal(signal.SIGKILL)
        first.wait()
        with device_lock("cuda", wait_seconds=240) as third:
            assert third == one
            assert os.environ["CUDA_VISIBLE_DEVICES"] == one
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("name", ["cpu", "cuda:1"])
def test_a_device_that_says_which_one_needs_no_lock(name):
    with device_lock(name) as taken:
        assert taken is None
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_a_scheduler_gave_to_its_job_is_respected(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert candidates() == ["0", "1"]

    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert candidates() == ["5"]
    with device_lock("cuda") as taken:
        assert taken == "5"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_two_jobs_of_a_scheduler_that_both_call_their_device_0_do_not_wait(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with device_lock("cuda"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setenv("SLURM_JOB_ID", "13")
        with device_lock("cuda", wait_seconds=0) as taken:
            assert taken == "0"


def test_visible_devices_are_shared_out_without_a_scheduler(monkeypatch):
    monkeypatch.delenv("FUSEGPT_GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert candidates() == ["2", "3"]


@pytest.mark.parametrize("devices", ["", "-1"])
def test_no_device_is_refused_with_the_variable_that_says_so(monkeypatch, devices):
    monkeypatch.setenv("FUSEGPT_GPUS", devices)
    with pytest.raises(ConfigError, match="no GPU may be used: FUSEGPT_GPUS names none"):
        candidates()


def test_a_machine_without_a_driver_has_no_devices(monkeypatch):
    monkeypatch.delenv("FUSEGPT_GPUS")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="nvidia-smi names none; choose --device cpu"):
        candidates()


def test_devices_may_have_names(monkeypatch):
    monkeypatch.setenv("FUSEGPT_GPUS", "GPU-8f2a/1")
    with device_lock("cuda") as taken:
        assert taken == "GPU-8f2a/1"


def test_several_devices_are_locked_at_once_or_none():
    with device_lock("cuda", 2) as taken:
        assert taken == os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    with start() as (_, one):
        with pytest.raises(BusyError, match=r"fewer than 2 GPUs are free \(0, 1\)"):
            with device_lock("cuda", 2, wait_seconds=0):
                pass
        with device_lock("cuda", wait_seconds=0) as other:
            assert {one, other} == {"0", "1"}
    with pytest.raises(ConfigError, match=r"must have 3 GPUs, has 2 \(0, 1\)"):
        with device_lock("cuda", 3):
            pass


def test_a_name_says_for_how_many_processes():
    assert kind_and_count("cudax16") == ("cuda", 16) and kind_and_count("cpux2") == ("cpu", 2)
    assert kind_and_count("cuda:1") == ("cuda:1", 1) and kind_and_count("cudax") == ("cudax", 1)
    with pytest.raises(ConfigError, match="device: must have at least one process, got 'cpux0'"):
        kind_and_count("cpux0")


def test_instances_of_a_gpu_stand_in_its_place(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    program.chmod(0o755)
    monkeypatch.delenv("FUSEGPT_GPUS")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = candidates()
    assert [name[:8] for name in found] == ["MIG-97a5", "MIG-GPU-", "1"]
    with device_lock("cuda", 3) as taken:
        assert taken == ",".join(found)
