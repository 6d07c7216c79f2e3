"""A model under whose pruning something is lost, and windows to prune it on."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from fusegpt.data.window_files import write_windows
from fusegpt.models.checkpoints.load import load
from tests import tiny


@pytest.fixture
def strong_llama_dir(tiny_llama_dir, tmp_path):
    """The tiny Llama with weights under which every block, and each sublayer of it, matters."""
    model = load(tiny_llama_dir, dtype="float32")
    draw = torch.Generator().manual_seed(0)
    for parameter in model.module.parameters():
        if parameter.dim() >= 2:
            parameter.data.normal_(0, 0.15, generator=draw)
    directory = tmp_path / "dense"
    model.module.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(directory)
    (directory / "source.json").write_text(
        json.dumps({"kind": "model", "num_blocks": 6, "base_model": "someone/tiny"})
    )
    return directory


@pytest.fixture
def windows_file(tmp_path):
    write_windows(tmp_path / "windows.parquet", tiny.ids(8, 10).numpy(), {"corpus": "random"})
    return tmp_path / "windows.parquet"
