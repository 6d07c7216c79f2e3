"""How large a model's blocks are: from the headers of its weights, or from its configured entry."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusegpt.artifacts import read_json
from fusegpt.data.directories import weight_files
from fusegpt.errors import ArtifactError
from fusegpt.work import Shape, attention_width, cached_values

__all__ = ["block_shape", "shape_of"]

NO_MAPS = re.compile(r"(^|\.)(A_log|D|dt_bias|conv\w*\.\w+)$")
"""What has two axes and is no linear map: rates of state-space models, convolution kernels."""


Named = list[tuple[str, list[int]]]


def block_shape(directory: Path, num_blocks: int) -> Shape | None:
    """Read the headers of a model's weights; ``None`` when it is not here.

    Blocks are the numbered list with ``num_blocks`` entries that holds the most values.
    """
    try:
        files = weight_files(directory)
        config = _text_config(directory)
    except ArtifactError:
        return None
    tensors = [item for file in files for item in _tensors(file)]
    shape = shape_of([(name, sizes) for name, sizes, _ in tensors], config, num_blocks)
    stored = sum(math.prod(sizes) * size for _, sizes, size in tensors)
    return shape and shape.model_copy(update={"stored": stored})


def shape_of(tensors: Named, config: Mapping[str, Any], num_blocks: int) -> Shape | None:
    """Count the values of tensors; ``None`` when no list of blocks has ``num_blocks`` entries.

    Args:
        tensors: Names and shapes of all that the model's files hold.
        config: The configuration of its text model.
        num_blocks: The dense model's number of blocks.
    """
    width = config.get("hidden_size") or config.get("n_embd") or config.get("d_model")
    attention = int(attention_width(config))
    lists: dict[str, dict[int, Named]] = defaultdict(lambda: defaultdict(list))
    for name, shape in tensors:
        match = re.match(r"(.*?)\.(\d+)\.(.*)", name)
        if match:
            lists[match[1]][int(match[2])].append((match[3], shape))
    found = [blocks for blocks in lists.values() if len(blocks) == num_blocks]
    if not found or width is None:
        return None
    blocks = max(found, key=lambda blocks: sum(_values(block) for block in blocks.values()))
    sums = [sum(column) for column in zip(*map(_roles, blocks.values()), strict=True)]
    values, sides, biases, rest = (number // num_blocks for number in sums)
    sizes = [_values(block) for block in blocks.values()]
    return Shape(
        values=values,
        sides=sides,
        width=width,
        biases=biases,
        rest=rest,
        vocab=config.get("vocab_size") or 0,
        total=_values(tensors),
        attention=None if attention == width else attention,
        smallest=None if len(set(sizes)) == 1 else min(sizes),
        cache=cached_values(config),
    )


def _roles(block: Named) -> tuple[int, int, int, int]:
    """Values of matrices, their sides, values of their biases, and of the rest."""
    matrices = [(name, x) for name, x in block if len(x) >= 2 and not NO_MAPS.search(name)]
    owners = {name.rpartition(".")[0] for name, _ in matrices}
    named = {name for name, _ in matrices}
    other = [(name, x) for name, x in block if name not in named]
    biases = [(name, x) for name, x in other if name.rpartition(".")[0] in owners]
    sides = sum(math.prod(x[:-2]) * (x[-2] + x[-1]) for _, x in matrices)
    return _values(matrices), sides, _values(biases), _values(other) - _values(biases)


def _values(tensors: Sequence[tuple[str, Sequence[int]]]) -> int:
    return sum(math.prod(shape) for _, shape in tensors)


def _text_config(directory: Path) -> dict[str, Any]:
    config = read_json(directory / "config.json")
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _tensors(file: Path) -> Iterator[tuple[str, list[int], int]]:
    """Name, shape and bytes of a value of each tensor of a file."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        for name in tensors.keys():
            part = tensors.get_slice(name)
            bits = re.search(r"\d+", part.get_dtype())  # none in BOOL
            yield name, list(part.get_shape()), int(bits[0]) // 8 if bits else 1
