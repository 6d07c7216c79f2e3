"""The notebook goes from a model to a chart and to the text of both models."""

from __future__ import annotations

import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.test_docs import ROOT

NOTEBOOK = ROOT / "examples/prune_a_model.ipynb"


def shown(book):
    """What the cells of a notebook show."""
    return [x.get("data", {}) for cell in book.cells for x in cell.get("outputs", ())]


def test_what_the_notebook_showed_lies_in_it_and_nothing_of_where_it_ran():
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)

    assert any("<svg" in data.get("image/svg+xml", "") for data in shown(book))
    (table,) = (data["text/markdown"] for data in shown(book) if "text/markdown" in data)
    assert table.startswith("| prompt | dense | pruned |") and "Paris" in table
    assert all(x.output_type != "stream" for cell in book.cells for x in cell.get("outputs", ()))


@pytest.mark.slow
def test_the_notebook_prunes_draws_and_shows_what_both_models_write(
    tiny_llama_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    book = nbformat.read(NOTEBOOK, as_version=4)
    (first, *_) = (cell for cell in book.cells if cell.cell_type == "code")
    assert '"smollm2-135m"' in first.source
    for cell in book.cells:
        cell.pop("outputs", None)
        cell.update({"outputs": []} if cell.cell_type == "code" else {})
    first.source = first.source.replace('"smollm2-135m"', repr(str(tiny_llama_dir)))

    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    assert any("<svg" in data.get("image/svg+xml", "") for data in shown(book))
    (table,) = (data["text/markdown"] for data in shown(book) if "text/markdown" in data)
    assert table.count("\n") == 4 and table.startswith("| prompt | dense | pruned |")
    assert (tmp_path / "work/pruned/fusegpt.json").is_file()
