"""A checkpoint in a fresh process that knows nothing but one import, against the same one here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusegpt.models.checkpoints.load import load


def loads_after(statement: str, path: Path) -> None:
    """Plain transformers must load, run and generate from a directory after a statement."""
    code = f"""
{statement}
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
path = {str(path)!r}
model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
ids = AutoTokenizer.from_pretrained(path)("beautiful is better", return_tensors="pt").input_ids
out = [model.generate(ids, max_new_tokens=4, do_sample=False, use_cache=c) for c in (True, False)]
assert torch.equal(*out) and out[0].shape[1] > ids.shape[1]
print(model(ids).logits.sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    model = load(path, dtype="float32")
    ids = model.tokenizer("beautiful is better", return_tensors="pt").input_ids
    assert float(done.stdout) == pytest.approx(model.module(ids).logits.sum().item(), rel=1e-4)
