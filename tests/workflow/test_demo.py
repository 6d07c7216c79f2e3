"""The demo's first step on the real model: fetched, sampled, scored, fused by the real verbs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fusegpt.config import builtin_config_dir
from fusegpt.pruning.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.index
def test_the_demo_removes_a_middle_block_and_fuses_it_into_its_neighbours(tmp_path):
    demo = yaml.safe_load((builtin_config_dir() / "demo.yaml").read_text())["experiments"]["demo"]
    recipe = load_recipe("fusegpt_mse", demo["settings"], demo["seeds"][0]).id
    step = f"results/runs/smollm2-135m/{recipe}/step-001"
    command = [
        sys.executable, "-m", "snakemake", f"{step}/manifest.json", "--cores", "1",
        "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path),
        "--configfile", str(ROOT / "config" / "demo.yaml"),
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    manifest = json.loads((tmp_path / step / "manifest.json").read_text())
    removed = manifest["unit"]["index"]
    assert 2 <= removed <= 27  # the ends carry the most
    assert len(manifest["group"]) == 7
    assert manifest["fused_into"] == manifest["group"]
    assert manifest["last_loss"] < 0.8 * manifest["first_loss"]
    assert len(manifest["kept"]) == 29
