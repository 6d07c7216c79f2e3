"""GPTQ by llm-compressor, which is installed in an environment of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusegpt.data.carried import Carried
from fusegpt.data.masked import mask_of
from fusegpt.exports.gptq_tools import check_gptq, python_of_gptq
from fusegpt.exports.tools import run_tool
from fusegpt.models.stored import stored_in

__all__ = ["gptq"]

SCRIPT = Path(__file__).with_name("llm_compressor.py")


def gptq(
    checkpoint: Path, windows: Tensor, bits: int, group: int, ignored: Collection[str]
) -> dict[str, Tensor]:
    """Round the linear modules of a model so that windows of text change it least.

    Source: Frantar et al., GPTQ, arXiv 2210.17323.

    Args:
        checkpoint: A directory that transformers loads.
        windows: Token ids, ``[windows, length]``; padding is masked.
        bits: Bits of a code.
        group: Values of a row that share a scale.
        ignored: Names of the linear modules that stay as they are.

    Returns:
        ``{module}.weight_packed`` and ``{module}.weight_scale`` of each, as compressed-tensors
        packs them.

    Raises:
        ConfigError: llm-compressor is missing or refuses the model.
    """
    check_gptq(str(checkpoint))
    mask = mask_of(windows)
    plain = windows.plain() if isinstance(windows, Carried) else windows
    seen = torch.ones_like(plain) if mask is None else mask
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder) / "windows.npz", Path(folder) / "model"
        np.savez(file, ids=plain.numpy(), mask=seen.numpy().astype(np.int64))
        asked: dict[str, Any] = {"model": str(checkpoint.absolute()), "windows": str(file)}
        asked |= {"output": str(output), "bits": bits, "group": group, "ignore": sorted(ignored)}
        said = json.dumps({**asked, "threads": torch.get_num_threads()})
        variables = {"PYTHONPATH": ""}
        command = [str(python_of_gptq()), "-P", str(SCRIPT)]
        run_tool(command, f"{checkpoint}: llm-compressor", said, variables)
        ends = (".weight_packed", ".weight_scale")
        places = stored_in(sorted(output.glob("*.safetensors")))
        return {name: place.read() for name, place in places.items() if name.endswith(ends)}
