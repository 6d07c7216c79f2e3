"""A project directory where Snakemake runs with a stand-in for ``fusegpt``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusegpt.workflow.plan import Plan
from tests import forked

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).with_name("stub.py")
EVALUATION = {"eval": "perplexity", "corpus": "python_docs", "split": "test", "length": 32}


def configuration() -> dict[str, Any]:
    """Two pruning recipes on a model of four blocks, one step, two evaluations."""
    return {
        "models": {"tiny": {"source": "dir:models/tiny", "num_blocks": 4}},
        "evaluations": {"docs": dict(EVALUATION), "short": {**EVALUATION, "windows": 2}},
        "experiments": {
            "study": {
                "models": ["tiny"],
                "recipes": ["dense", "macro_influence", "fusegpt"],
                "sparsities": [0.25],
                "evaluations": ["docs", "short"],
                "keep_checkpoints": True,
                "settings": {
                    "calibration": {"corpus": "python_docs", "sequences": 2, "length": 16},
                    "finetune": {"corpus": "python_docs", "sequences": 8, "length": 16},
                },
            }
        },
    }


class Project:
    """A working directory with a configuration, a ledger and a way to run Snakemake."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = configuration()
        self.ledger = directory / "ledger"
        self.root = ROOT
        self.environment = os.environ | {
            "STUB_LEDGER": str(self.ledger),
            "PATH": f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(directory / "site"), str(ROOT)]),
        }

    @property
    def study(self) -> dict[str, Any]:
        return self.config["experiments"]["study"]

    def command(self, *arguments: str) -> list[str]:
        """What follows ``snakemake``; writes the configuration."""
        file = self.directory / "study.json"
        file.write_text(json.dumps(self.config), encoding="utf-8")
        profile = self.root / "config" / "profiles" / "default"
        return [
            *arguments,
            *("--snakefile", str(self.root / "Snakefile"), "--profile", str(profile)),
            *("--cores", "2", "--configfile", str(file)),
        ]

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return forked.run(self.command(*arguments), self.directory, self.environment)

    def started(self, *arguments: str) -> list[str]:
        """Run to the end; what was started, as ``verb output`` lines."""
        before = self.lines()
        done = self.snakemake(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return self.lines()[len(before) :]

    def lines(self) -> list[str]:
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []


def wild(plan: Plan, name: str, **more: str) -> SimpleNamespace:
    """Wildcards of a recipe of a plan."""
    recipe = next(recipe for recipe in plan.recipes if recipe.startswith(f"{name}-"))
    return SimpleNamespace(model="tiny", recipe=recipe, **more)


def verbs(started: list[str]) -> Counter[str]:
    return Counter(line.split()[0] for line in started)


def _install(directory: Path) -> None:
    (directory / "bin").mkdir(parents=True)
    (directory / "models" / "tiny").mkdir(parents=True)
    script = directory / "bin" / "fusegpt"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{STUB}" "$@"\n')
    script.chmod(0o755)
    (directory / "site").mkdir()
    (directory / "site" / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('STUB_RAISE'):\n"
        "    import fusegpt.artifacts\n"
        "    fusegpt.artifacts.STAGE_VERSION[os.environ['STUB_RAISE']] += 1\n"
    )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project where nothing ran yet, below a path with spaces and an accent."""
    directory = tmp_path / "a wörk dir"
    _install(directory)
    return Project(directory)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "a wörk dir"
    _install(directory)
    Project(directory).started()
    return directory


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Project:
    """A project where everything ran once."""
    shutil.copytree(_finished, tmp_path / "a wörk dir")
    return Project(tmp_path / "a wörk dir")


@pytest.fixture
def change() -> Callable[[dict[str, Any], str, Any], None]:
    """``change(config, "experiments.study.seeds", [1])``: set one value, making tables."""

    def set_value(config: dict[str, Any], path: str, value: Any) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            config = config.setdefault(parent, {})
        config[last] = value

    return set_value
