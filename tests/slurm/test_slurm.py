"""The workflow on a real Slurm of one node, which this module installs, starts and stops."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.run import ROOT, Project, configuration

pytestmark = pytest.mark.slurm
NODE = ["bash", str(Path(__file__).with_name("onenode.sh"))]


def node(verb: str, check: bool = True) -> str:
    done = subprocess.run([*NODE, verb], stdout=subprocess.PIPE, text=True, check=check)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """Daemons that are up, and down again at the end."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed: pip install -e '.[slurm]'")
    if lacking := node("missing"):
        pytest.skip(lacking)
    if subprocess.run([*NODE, "install"], check=False).returncode:
        pytest.skip("Debian's packages of Slurm cannot be installed here")
    try:
        print(node("start"))
        yield
    finally:
        node("stop", check=False)


@pytest.fixture
def project(slurm, tmp_path: Path, tiny_llama_dir: Path) -> Project:
    made = Project(tmp_path / "on slurm", tiny_llama_dir, configuration(epochs=200, steps=1))
    made.environment["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{made.environment['PATH']}"
    )
    return made


def queue(*states: str) -> list[str]:
    """Names of jobs in these states."""
    command = ["squeue", "-h", "-o", "%i", "--states", ",".join(states)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def wait_until(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.2)


def devices(project: Project, target: str) -> None:
    """Run jobs that only take GPUs."""
    (project.directory / "tests").symlink_to(ROOT / "tests")
    command = [sys.executable, "-m", "snakemake", target]
    command += ["--snakefile", str(ROOT / "tests/slurm/devices.smk")]
    command += ["--profile", str(ROOT / "config/profiles/slurm-ci")]
    subprocess.run(command, cwd=project.directory, env=project.environment, check=True)


def test_a_job_of_two_gpus_works_in_two_processes_on_a_device_each(project):
    devices(project, "pair")
    one, other, total = (project.directory / "devices/pair.txt").read_text().split()
    assert {one, other} == {"0", "1"} and total == "1"


def test_a_step_of_two_gpus_is_tuned_as_by_one_process(project, tmp_path):
    short = configuration(epochs=2, steps=1)
    (project.directory / "study.json").write_text(json.dumps(short))
    two_gpus = ("--set-resources", "fuse:gpu=2", "fuse:device=cpux2")
    project.finish("checkpoints", *two_gpus, profile="slurm-ci")
    log = project.directory / "logs/fuse/tiny" / project.step(1).parent.name / "step-001.log"
    assert "fuse in 2 processes" in log.read_text()
    alone = Project(tmp_path / "local", project.directory / "model", short)
    alone.finish("checkpoints", "--cores", "1")
    one, two = (json.loads((of.step(1) / "training.json").read_text()) for of in (alone, project))
    for mine, theirs in zip(two["rows"], one["rows"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_two_gpu_jobs_at_once_get_different_devices(project):
    devices(project, "both")
    found = [file.read_text().split() for file in project.directory.glob("devices/*.txt")]
    assert {device for device, _, _ in found} == {"0", "1"}
    assert len({job for _, job, _ in found}) == 2
    assert {together for _, _, together in found} == {"2"}


def test_the_workflow_runs_is_cancelled_and_resumes_to_the_same_bytes(project, tmp_path):
    running = project.start("checkpoints", profile="slurm-ci")
    wait_until(lambda: (project.step(1) / "resume.safetensors").exists(), 400)
    running.send_signal(signal.SIGINT)
    running.wait(timeout=120)
    wait_until(lambda: not queue("PENDING", "RUNNING", "COMPLETING"), 60)
    assert not (project.step(1) / "manifest.json").exists()
    rows = (project.step(1) / "resume.safetensors").stat().st_size
    assert rows > 0

    project.unlock()
    project.finish("all", profile="slurm-ci")

    log = project.directory / "logs/fuse/tiny" / project.step(1).parent.name / "step-001.log"
    assert "resumed after optimiser step" in log.read_text()
    assert (project.directory / "results/report.html").is_file()
    notes = json.loads((project.step(1) / "manifest.json").read_text())
    assert notes["step"] == 1
    alone = Project(tmp_path / "local", project.directory / "model", configuration(200, 1))
    alone.finish("checkpoints", "--cores", "1")
    assert project.weights() == alone.weights()
