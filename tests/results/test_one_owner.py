"""Nobody but ``fusegpt.results`` says where results lie, or how their files are called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusegpt.results import layout

ROOT = Path(__file__).resolve().parents[2]
OWNER = ROOT / "fusegpt" / "results"
FILES = [
    *(file for file in ROOT.glob("fusegpt/**/*.py") if OWNER not in file.parents),
    *ROOT.glob("rules/*.smk"),
    ROOT / "Snakefile",
]
FOLDERS = (
    "models|data|scores|parts|runs|answers|checkpoints|slices|exports|cards|evaluations|tables"
    "|figures"
)
NAMES = (
    *(layout.SOURCE, layout.MANIFEST, layout.CHECKPOINT, layout.SCORES, layout.DELTA),
    *(layout.TRAINING, layout.RESUME, layout.TRIALS, layout.RECIPE, layout.EXPORT),
)
SPELLED = re.compile(
    rf"""["'](?:results/|(?:{FOLDERS})/[*{{])|["'/](?:{"|".join(map(re.escape, NAMES))})["']"""
    r"""|["'/](?:step|sparsity)-[*{]"""
)
STORE = f"--store {layout.store}"
"""In a rule's shell text, which Snakemake compares with its records: it cannot be put together."""


def code(file: Path) -> str:
    """The text without docstrings, comments and help, which may name files to people."""
    text = re.sub(r'"""(?:.|\n)*?"""', "", file.read_text(encoding="utf-8"))
    text = re.sub(r"(?:help|log|benchmark)=?:?\s*f?\"[^\"]*\"", "", text)
    return re.sub(r"#[^\n]*", "", text).replace(STORE, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_other_file_spells_a_path_of_results(file):
    assert SPELLED.findall(code(file)) == []


def test_the_store_that_a_rule_names_is_the_layouts():
    assert STORE in (ROOT / "rules/evaluate.smk").read_text()
