"""Whether a directory holds a whole model in plain weights; asked before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.errors import ArtifactError
from fusegpt.tensor_files import TensorPlace, read_header

__all__ = ["check_plain"]

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Entries of a configuration, at any depth, that quantised weights come with."""
PLAIN_FLOATS = ("F64", "F32", "F16", "BF16")
ADVICE = (
    "take the plain weights of the same model, or dequantise them first as docs/models.md says"
    " (Quantised models)"
)


def check_plain(directory: Path) -> None:
    """Refuse quantised weights and adapters, whatever their kind.

    A loader may dequantise weights and still write some of them as they were, so that the written
    model is another one than that in memory.

    Args:
        directory: Holds ``config.json``; with or without weights, of which headers alone are read.

    Raises:
        ArtifactError: The directory holds an adapter, or quantised weights; the message says what
            to do.
    """
    directory = Path(directory)
    whole = (directory / CONFIG).is_file()
    if (directory / ADAPTER).is_file():
        what = "a model without an adapter beside it" if whole else "a whole model"
        raise ArtifactError(
            f"{directory}: must hold {what}, got an adapter ({ADAPTER}); merge the adapter into"
            " its model first (merge_and_unload of peft, then save_pretrained) and give the result"
        )
    if whole and (kind := _quantisation(_config(directory / CONFIG))):
        raise ArtifactError(f"{directory}: must hold plain weights, got {kind}; {ADVICE}")
    for path in sorted(directory.glob("*.safetensors")):
        for name, tensor in _tensors(path).items():
            if _is_quantised(name, tensor):
                raise ArtifactError(
                    f"{path}: must hold plain weights, got {name} as {tensor.dtype}; {ADVICE}"
                )


def _tensors(path: Path) -> Mapping[str, TensorPlace]:
    """What a safetensors file holds; nothing where it is none, as whoever reads its values says."""
    try:
        return read_header(path).tensors
    except ArtifactError:
        return {}


def _config(path: Path) -> Any:
    try:
        return read_json(path)
    except ArtifactError:  # whoever loads the model says what is wrong with it
        return None


def _quantisation(config: Any) -> str | None:
    """How a configuration says that weights are quantised."""
    for name, entry in _entries(config):
        if name in QUANTISED and isinstance(entry, Mapping) and entry:
            method = entry.get("quant_method") or entry.get("format") or entry.get("bits")
            return f"quantised ones ({name}{f': {method}' if method else ''} in {CONFIG})"
    return None


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for name, entry in config.items():
            yield name, entry
            yield from _entries(entry)


def _is_quantised(name: str, tensor: TensorPlace) -> bool:
    """Floats of less than 16 bits, or whole numbers where a weight should be."""
    dtype, leaf = tensor.dtype, name.rpartition(".")[2]
    if dtype.startswith(("F", "BF")):
        return dtype not in PLAIN_FLOATS
    return dtype != "BOOL" and "weight" in leaf and len(tensor.shape) > 1
