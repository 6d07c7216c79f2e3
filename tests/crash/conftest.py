"""A finished run to compare with, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.run import Project, configuration

EPOCHS = 100  # long enough that kills land inside the tuning
PREPARED = ("results/models", "results/data", ".snakemake/metadata")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Project:
    """Two steps of FuseGPT and their checkpoint, in one go."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "a wörk dir"
    project = Project(directory, tiny_llama_dir, configuration(EPOCHS))
    project.finish("checkpoints", "--cores", "2")
    return project


@pytest.fixture
def project(
    tmp_path: Path, tiny_llama_dir: Path, request: pytest.FixtureRequest
) -> Callable[..., Project]:
    """``project()``: the same, where nothing ran yet; or with model and windows in place."""

    def make(epochs: int = EPOCHS, *, prepared: bool = False) -> Project:
        made = Project(tmp_path / "a wörk dir", tiny_llama_dir, configuration(epochs))
        request.addfinalizer(made.end)
        if prepared:
            done = request.getfixturevalue("uninterrupted").directory
            for folder in PREPARED:
                shutil.copytree(done / folder, made.directory / folder, symlinks=True)
        return made

    yield make
    shutil.rmtree(tmp_path, ignore_errors=True)
