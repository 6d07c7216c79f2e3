"""The demo's first step on the real model: fetched, sampled, scored, fused by the real verbs."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from fusegpt.config import builtin_config_dir
from fusegpt.pruning.recipe import load_recipe
from tests import forked
from tests.planned import commands, fusegpt

ROOT = Path(__file__).resolve().parents[2]
FEW = {
    "calibration": {"length": 32},
    "finetune": {"sequences": 4, "length": 64},
    "recovery": {"epochs": 5},
}
"""Five optimiser steps on one batch, in place of 24 on sixteen times as much text."""


def in_one_process(asked, directory, monkeypatch):
    monkeypatch.chdir(directory)
    for words in commands(directory, *asked):
        fusegpt(*words)


def by_snakemake(asked, directory, monkeypatch):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = forked.run([*asked, "--cores", "1"], directory, os.environ | {"PATH": path})
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.index
@pytest.mark.parametrize(
    ("less", "make"),
    [(FEW, in_one_process), pytest.param({}, by_snakemake, marks=pytest.mark.slow)],
    ids=["few", "all"],
)
def test_the_demo_removes_a_middle_block_and_fuses_it_into_its_neighbours(
    less, make, tmp_path, monkeypatch
):
    config = yaml.safe_load((builtin_config_dir() / "demo.yaml").read_text())
    demo = config["experiments"]["demo"]
    for section, settings in less.items():
        demo["settings"][section] |= settings
    (tmp_path / "demo.json").write_text(json.dumps(config))
    recipe = load_recipe("fusegpt_mse", demo["settings"], demo["seeds"][0]).id
    step = f"results/runs/smollm2-135m/{recipe}/step-001"
    asked = [f"{step}/manifest.json", "--configfile", "demo.json"]
    make([*asked, "--snakefile", str(ROOT / "Snakefile")], tmp_path, monkeypatch)
    manifest = json.loads((tmp_path / step / "manifest.json").read_text())
    removed = manifest["unit"]["index"]
    assert 2 <= removed <= 27  # the ends carry the most
    assert len(manifest["group"]) == 7
    assert manifest["fused_into"] == manifest["group"]
    assert manifest["last_loss"] < 0.8 * manifest["first_loss"]
    assert len(manifest["kept"]) == 29
