"""A chain on disk: a dense model of six blocks and three steps, with every record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusegpt.artifacts import file_record, sha256
from fusegpt.results import layout as at

RUN = {"model": "tiny", "recipe": "fusegpt-01234567"}
REMOVED, FUSED = [3, 2, 4], [[2, 4], [1, 4], [1, 5]]


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
    return path


def unit(index: int) -> dict[str, Any]:
    return {"granularity": "block", "index": index}


def make_chain(folder: Path) -> Path:
    """Write the chain; return the manifest of the last step."""
    source = at.source.under(folder, model="tiny")
    write(source, {"kind": "model", "source": "dir:tiny", "num_blocks": 6, "files": {}})
    file = at.manifest.under(folder, **RUN, k=0)
    up = "../../../../models/tiny/source.json"
    start = {"kind": "start", "step": 0, "removed": [], "kept": list(range(6)), "num_blocks": 6}
    write(file, {**start, "parent": {"path": up, "sha256": sha256(source)}})
    for number, index in enumerate(REMOVED, 1):
        before, file = file, at.manifest.under(folder, **RUN, k=number)
        kept = [block for block in range(6) if block not in REMOVED[:number]]
        rows = [{**unit(block), "score": 0.1 * block, "deviation": 0.5} for block in [*kept, index]]
        scores = {"kind": "scores", "step": number, "metric": "random", "settings": {"a": 1}}
        write(file.with_name("scores.json"), {**scores, "units": rows, "selected": unit(index)})
        write(file.with_name("training.json"), {"rows": [{"step": 0, "epoch": 0, "loss": 0.5}]})
        file.with_name("delta.safetensors").write_bytes(b"tensors" + bytes([number]))
        manifest = {
            "kind": "step",
            "step": number,
            "unit": unit(index),
            "score": 0.3,
            "next_score": None,
            "removed": [unit(block) for block in REMOVED[:number]],
            "kept": kept,
            "group": FUSED[number - 1],
            "fused_into": FUSED[number - 1],
            "tokens": 64,
            "flops": 2.5e9,
            "seconds": 1,
            "something_new": {"of": "a later version"},
            "parent": {
                "path": f"../step-{number - 1:03d}/manifest.json",
                "sha256": sha256(before),
            },
            "files": {"delta.safetensors": file_record(file.with_name("delta.safetensors"))},
        }
        write(file, manifest)
    return file


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """The manifest of the last of three steps."""
    return make_chain(tmp_path / "results")
