"""pyproject.toml, constraints.txt, environment.yml, LICENSE and CITATION.cff agree."""

from __future__ import annotations

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


@pytest.mark.index
@pytest.mark.slow
def test_a_wheel_carries_the_configuration_and_the_page(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("fusegpt-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "fusegpt/builtin_config/config.yaml" in names
    assert "fusegpt/builtin_config/recipes/fusegpt.yaml" in names
    assert {f"fusegpt/reports/page.{ending}" for ending in ("html.j2", "css", "js")} <= names
    assert "fusegpt/builtin_config/published/fusegpt_v1.csv" in names
    assert not any(name.startswith(("tests/", "results/")) for name in names)


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
