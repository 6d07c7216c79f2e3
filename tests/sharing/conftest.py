"""What both methods of sharing are tested with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.planned import fusegpt


@pytest.fixture
def batches():
    return [tiny.ids(2, 12, seed=3), tiny.ids(2, 12, seed=4)]


def write(recipe: str, sparsity: str, dense: Path, folder: Path) -> Path:
    """Write a model whose blocks share weights."""
    text, model = folder / "text.parquet", folder / "model"
    flags = ("--corpus", "python_docs", "--sequences", 4, "--length", 32, "--output", text)
    fusegpt("sample", "--model", dense, *flags)
    flags = ("--recipe", recipe, "--dtype", "float32", "--set", "width.rank=4")
    flags += ("--sparsity", sparsity, "--calibration", text, "--output", model)
    fusegpt("slice", "--model", dense, *flags)
    return model
