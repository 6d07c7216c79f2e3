"""A finished run to compare with, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.run import Project, configuration
from tests.planned import commands, fusegpt

EPOCHS = 100  # long enough that kills land inside the tuning
LAST = ("manifest.json", "delta.safetensors", "training.json")
"""What the second step leaves beside its scores."""


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Project:
    """Two steps of FuseGPT and their checkpoint, as Snakemake plans them, by one process."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "a wörk dir"
    project = Project(directory, tiny_llama_dir, configuration(EPOCHS))
    asked = project.command("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for words in commands(directory, *asked, environment=project.environment):
            fusegpt(*words)
    return project


@pytest.fixture
def project(
    tmp_path: Path, tiny_llama_dir: Path, request: pytest.FixtureRequest
) -> Callable[..., Project]:
    """``project()``: the same, where nothing ran yet; or with all that the second fusion needs."""

    def make(epochs: int = EPOCHS, *, prepared: bool = False) -> Project:
        made = Project(tmp_path / "a wörk dir", tiny_llama_dir, configuration(epochs))
        request.addfinalizer(made.end)
        if prepared:
            done = request.getfixturevalue("uninterrupted").directory / "results"
            left_out = shutil.ignore_patterns("checkpoints")
            shutil.copytree(done, made.directory / "results", ignore=left_out)
            for name in LAST:
                (made.step(2) / name).unlink()
        return made

    yield make
    shutil.rmtree(tmp_path, ignore_errors=True)
