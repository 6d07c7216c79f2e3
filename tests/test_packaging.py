"""pyproject.toml, constraints.txt, environment.yml, LICENSE and CITATION.cff agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import fusegpt

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"] + OPTIONAL["dev"]]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def conda_pins() -> dict[str, str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    conda = [entry for entry in entries if isinstance(entry, str) and "=" in entry]
    pairs = [entry.split("=", 1) for entry in conda] + [entry.split("==") for entry in pip]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_requirement_is_pinned_inside_its_range():
    for requirement in REQUIREMENTS:
        assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_constraints_are_exact_public_versions():
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


def test_conda_has_exactly_the_requirements_at_the_pinned_versions():
    conda = conda_pins()
    assert conda.pop("python") == "3.11"
    expected = {canonicalize_name(r.name): pins()[canonicalize_name(r.name)] for r in REQUIREMENTS}
    assert conda == expected


def test_the_package_accepts_the_promised_ranges():
    ranges = {r.name: r.specifier for r in REQUIREMENTS}
    assert "2.8.0" in ranges["torch"]
    assert "5.10.0" in ranges["transformers"]
    assert PROJECT["requires-python"] == ">=3.11"


def test_installed_versions_are_the_pinned_ones():
    from importlib.metadata import version

    wrong = {
        requirement.name: version(requirement.name)
        for requirement in REQUIREMENTS
        if version(requirement.name).partition("+")[0]
        != pins()[canonicalize_name(requirement.name)]
    }
    if {"torch", "transformers"} & set(wrong):
        pytest.skip(f"another environment than that of constraints.txt: {wrong}")
    assert wrong == {}


def test_no_file_of_the_build_names_a_package_host():
    names = ["pyproject.toml", "constraints.txt", "environment.yml", "Makefile", ".ci/run"]
    for name in names:
        assert "://" not in (ROOT / name).read_text(), name


def test_licence_and_citation_name_the_same_software():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == PROJECT["name"]
    assert citation["version"] == fusegpt.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "2411.14507" in citation["preferred-citation"]["identifiers"][0]["value"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    (file,) = folder.glob("fusegpt-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel):
    """Run the wheel's own fusegpt, beside the dependencies that are there already."""
    site = wheel.parent / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(site), str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(directory, *arguments):
        done = subprocess.run(
            [site / "bin" / "fusegpt", *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
        return done.stdout + done.stderr

    return run


@pytest.mark.index
@pytest.mark.slow
def test_a_wheel_carries_the_workflow_its_settings_and_the_page(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "Snakefile", "environment.yml", "rules", "config"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {f"fusegpt/builtin/{name}" for name in tracked} <= names
    assert {f"fusegpt/reports/page.{ending}" for ending in ("html.j2", "css", "js")} <= names
    assert not any(name.startswith(("tests/", "results/")) for name in names)


@pytest.mark.index
@pytest.mark.slow
def test_an_installed_wheel_plans_and_runs_an_experiment_in_any_directory(
    installed, tiny_llama_dir, tmp_path
):
    windows = {"corpus": "python_docs", "sequences": 2, "length": 16}
    reading = {"eval": "perplexity", "corpus": "python_docs", "split": "test", "length": 32}
    study = {
        "models": ["tiny"],
        "recipes": ["macro_influence"],
        "sparsities": [0.16],
        "evaluations": ["docs"],
        "settings": {"dtype": "float32", "calibration": windows},
    }
    config = {
        "models": {"tiny": {"source": f"dir:{tiny_llama_dir}", "num_blocks": 6}},
        "evaluations": {"docs": {**reading, "windows": 2, "dtype": "float32"}},
        "experiments": {"study": study},
    }
    (tmp_path / "study.json").write_text(json.dumps(config))

    assert re.search(r"^fuse +1 +0$", installed(tmp_path, "plan", "study.json"), re.M)
    planned = installed(tmp_path, "run", "demo", "--dry-run")
    assert "site/fusegpt/builtin/Snakefile" in planned and "demo.csv" in planned
    installed(tmp_path, "run", "study.json")

    assert (tmp_path / "results/report.html").is_file()
    log = next(tmp_path.glob("logs/fuse/tiny/*/step-001.log")).read_text()
    assert "step 1: removed block" in log
    source = json.loads((tmp_path / "results/models/tiny/source.json").read_text())
    assert source["num_blocks"] == 6


def test_the_hooks_before_a_commit_are_the_checks_of_make():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)/", "")
    snakemake = re.search(r"^SNAKEMAKE := (.*)$", makefile, re.M)[1]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
    checks = [line.strip().replace("$(SNAKEMAKE)", snakemake) for line in recipe.splitlines()]
    assert [hook["entry"] for hook in repo["hooks"]] == checks
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}


def test_the_changelog_begins_with_this_version():
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert sections[0] == fusegpt.__version__
    assert sections == sorted(sections, key=Version, reverse=True)


def test_make_help_names_every_target():
    out = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory", "help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for target in ("venv", "demo", "test", "check", "clean"):
        assert f"make {target} " in out


def test_the_tiny_model_loads_through_the_auto_classes(tiny_llama_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    ids = tokenizer("Beautiful is better than ugly: ü 42.", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "Beautiful is better than ugly: ü 42."
    assert model(ids).logits.shape == (1, ids.shape[1], len(tokenizer))
    assert model.config.num_hidden_layers == 6 and 128 <= len(tokenizer) <= 512
