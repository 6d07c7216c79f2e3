"""Profiles: each can be planned, and says only what Snakemake knows."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest
import yaml

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
PROFILES = {file.parent.name: file for file in ROOT.glob("config/profiles/*/config.yaml")}
GPU_RULES = ("score_dense", "score", "fuse", "merge", "evaluate_python_docs_demo")


COMPUTES = {"score", "fuse", "merge", "answers", "finish", "slice", "evaluate"}
"""Rules that load a model; a profile says the same things of all of them."""


def planned(directory: Path, *arguments: str, config: str = "demo", **environment: str) -> str:
    command = ["-n", *arguments]
    command += ["-s", str(ROOT / "Snakefile"), "--configfile", str(ROOT / f"config/{config}.yaml")]
    environment = {**os.environ, **environment}
    done = forked.run(command, directory, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_there_is_a_profile_for_each_place():
    assert set(PROFILES) == {"default", "local-gpu", "slurm", "slurm-ci", "kubernetes"}


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_trusts_no_incomplete_output(name):
    profile = yaml.safe_load(PROFILES[name].read_text())
    assert profile["rerun-incomplete"] is True and "keep-incomplete" not in profile
    assert set(profile["rerun-triggers"]) == {"mtime", "params", "input", "code", "software-env"}


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_speaks_of_every_rule_that_loads_a_model(name):
    profile = yaml.safe_load(PROFILES[name].read_text())
    for section in ("set-threads", "set-resources"):
        said = profile.get(section)
        assert said is None or set(said) == COMPUTES
        kinds = {frozenset(one) if isinstance(one, dict) else one for one in (said or {}).values()}
        assert len(kinds) <= 1


def test_a_slice_job_of_the_local_profile_asks_for_one_gpu_and_uses_it(tmp_path):
    profile = ["--profile", str(PROFILES["local-gpu"].parent)]
    said = planned(tmp_path, *profile, config="experiments/width_small")
    (job,) = re.findall(r"^rule slice:.*?^Shell command: [^\n]*", said, re.M | re.S)[:1]
    assert "gpu=1" in job and "--device cuda" in job


def test_what_a_profile_says_of_evaluate_holds_for_every_set_of_evaluations(tmp_path):
    more = ["--set-resources", "evaluate:runtime=attempt * 240", "evaluate:mem_mb=7777"]
    more += ["score:runtime=attempt * 120", "evaluate_python_docs_demo:mem_mb=5555"]
    said = planned(tmp_path, *more, "--set-threads", "evaluate=1", "score=1", "--cores", "2", "-p")
    for rule, words in {
        "evaluate_python_docs_demo": ("runtime=240", "mem_mb=5555", "gpu=1"),
        "score_dense": ("runtime=120", "gpu=1"),
    }.items():
        (job,) = re.findall(rf"^rule {rule}:.*?^Shell command: ", said, re.M | re.S)[:1]
        assert all(word in job for word in words) and "threads:" not in job  # one: not printed


def test_gpu_jobs_of_the_local_profile_ask_for_one_gpu_and_use_it(tmp_path):
    said = planned(tmp_path, "--profile", str(PROFILES["local-gpu"].parent))
    for rule in GPU_RULES:
        (job,) = re.findall(rf"^rule {rule}:.*?^Shell command: [^\n]*", said, re.M | re.S)[:1]
        assert "gpu=1" in job and "--device cuda" in job


def test_the_slurm_profile_asks_for_a_gpu_memory_and_time(tmp_path):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed")
    said = planned(tmp_path, "--profile", str(PROFILES["slurm"].parent))
    (job,) = re.findall(r"^rule fuse:.*?^Shell command: [^\n]*", said, re.M | re.S)[:1]
    assert all(text in job for text in ("gpu=1", "mem_mb=96000", "runtime=240", "--device cuda"))


def test_without_a_shared_file_system_a_checkpoint_declares_its_whole_chain(tmp_path):
    for plugin in ("executor_plugin_slurm", "storage_plugin_fs"):
        if importlib.util.find_spec(f"snakemake_{plugin}") is None:
            pytest.skip(f"snakemake_{plugin} is not installed")
    storage = ["--default-storage-provider", "fs", "--default-storage-prefix", str(tmp_path)]
    none = ["--shared-fs-usage", "none", "--executor", "slurm", "--jobs", "1"]
    said = planned(tmp_path, *none, *storage)
    inputs = max(re.findall(r"^rule merge:\n +input: ([^\n]*fusegpt[^\n]*)", said, re.M), key=len)
    for step in ("001", "002", "003"):
        assert f"step-{step}/delta.safetensors" in inputs
        assert f"step-{step}/manifest.json" in inputs


def test_constraints_stand_before_the_rules_that_need_them():
    # Snakemake adds later ones to a bucket's outputs by making these anew, without any
    text = (ROOT / "Snakefile").read_text()
    assert text.index("wildcard_constraints:") < text.index('include: "rules/data.smk"')


def test_the_kubernetes_profile_plans_the_demo_against_a_made_up_bucket(tmp_path):
    needed = ("snakemake_executor_plugin_kubernetes", "snakemake_storage_plugin_s3", "moto")
    for module in needed:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[kubernetes]' 'moto[server]'")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        place = "http://{}:{}".format(*server.get_host_and_port())
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        client = boto3.client("s3", endpoint_url=place, region_name="us-east-1", **keys)
        client.create_bucket(Bucket="bucket")
        known = {"ENDPOINT_URL": place, "ACCESS_KEY": "x", "SECRET_KEY": "x"}
        environment = {f"SNAKEMAKE_STORAGE_S3_{name}": value for name, value in known.items()}
        profile = ["--profile", str(PROFILES["kubernetes"].parent)]
        said = planned(tmp_path, *profile, "--strict-dag-evaluation", "functions", **environment)
    finally:
        server.stop()
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", said, re.M))
    names = ("score_dense", "take_scores", "score", "fuse", "fetch")
    assert [jobs[name] for name in names] == ["1", "3", "15", "18", "1"]
    (fuse,) = re.findall(r"^rule fuse:.*?^Shell command: [^\n]*", said, re.M | re.S)[:1]
    assert "s3://bucket/fusegpt/results/runs" in fuse and "--device cuda" in fuse


def test_the_image_of_the_kubernetes_profile_is_pinned_by_digest():
    profile = yaml.safe_load(PROFILES["kubernetes"].read_text())
    assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", profile["container-image"])
    assert profile["shared-fs-usage"] == "none"


def test_the_image_carries_what_a_job_calls():
    text = (ROOT / "Containerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.M)
    names = {name for line in copied for name in line.split()}
    assert {"fusegpt", "config", "rules", "Snakefile", "constraints.txt"} <= names
    assert all((ROOT / name).exists() for name in names)
