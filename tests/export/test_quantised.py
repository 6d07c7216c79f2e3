"""Weights of few bits: what is rounded how, and that it is measured as any model."""

from __future__ import annotations

import shutil

import pytest
import torch

from fusegpt.errors import ArtifactError
from fusegpt.exports import quantised
from fusegpt.exports.quantised import quantise, write_quantised
from fusegpt.exports.targets import parse_target
from fusegpt.models.checkpoints.load import load
from fusegpt.results.base import read
from fusegpt.results.exports import Export, weight_bytes
from fusegpt.results.models import Evaluation
from tests import tiny
from tests.planned import fusegpt, refused


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (4, 32)])
def test_codes_are_whole_numbers_with_a_scale_for_each_group(bits, group):
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    weight[3, 32:] = 0.0

    codes, scales = quantise(weight, bits, group)

    assert codes.dtype == torch.int8 and scales.shape == (16, 64 // group)
    assert codes.min() >= -(2 ** (bits - 1)) and codes.max() <= 2 ** (bits - 1) - 1
    plain = codes.float() * scales.repeat_interleave(group, dim=1)
    largest = weight.unflatten(1, (-1, group)).abs().amax(dim=2).repeat_interleave(group, dim=1)
    step = (largest / (2 ** (bits - 1) - 0.5)).clamp(min=1e-6)
    usual = (weight / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
    assert (plain[3, 32:] == 0).all()
    assert (plain - weight).square().sum() <= (usual - weight).square().sum() * 1.001
    assert ((plain - weight).abs() <= largest / 4 + 1e-6).all()


def test_a_directory_of_four_bits_is_measured_as_any_model_and_is_not_pruned(
    tiny_llama_dir, tmp_path
):
    model = shutil.copytree(tiny_llama_dir, tmp_path / "model")

    fusegpt("export", model, "--to", "int4", "--output", tmp_path / "small")

    record = read(tmp_path / "small/export.json", Export)
    assert record.gguf is None and record.tools.keys() == {"compressed-tensors"}
    assert abs(record.checks["quantised_nats"] - record.checks["nats"]) < 0.1
    own = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert weight_bytes(record.files) < own
    plain, small = (
        load(model, dtype="float32"),
        load(tmp_path / "small", dtype="float32", packed=True),
    )
    names = dict(plain.module.named_parameters())
    for name, weight in small.module.named_parameters():
        inside = "_proj" in name
        assert torch.equal(weight, names[name]) != inside, name
        assert (weight - names[name]).abs().max() <= names[name].abs().max() / 2
    values = []
    for place in (model, tmp_path / "small"):
        asked = ["--data", "python_docs", "--length", "32", "--windows", "2", "--dtype", "float32"]
        fusegpt("evaluate", "--model", place, *asked, "--output", tmp_path / "found.json")
        found = read(tmp_path / "found.json", Evaluation)
        values.append(found.rows[0].value)
        assert len(found.model.kept) == 6
    assert values[1] == pytest.approx(values[0], rel=0.05) and values[0] != values[1]
    with pytest.raises(ArtifactError, match="must hold plain weights, got quantised ones"):
        load(tmp_path / "small")


def test_no_codes_are_held_while_whole_models_are_compared(tiny_llama_dir, tmp_path, monkeypatch):
    held = []

    def noting(directory):
        held.append(tiny.living_tensors())
        return 1.0

    monkeypatch.setattr(quantised, "mean_nats", noting)
    write_quantised(tiny_llama_dir, parse_target("int8"), tmp_path)  # what is made once may stay
    before = tiny.living_tensors()
    write_quantised(tiny_llama_dir, parse_target("int8"), tmp_path)
    assert max(held[2:]) <= before


def test_what_is_no_whole_model_is_no_export(tmp_path, tiny_llama_dir):
    (tmp_path / "export.json").write_text('{"kind": "export"}')
    said = refused("export", tiny_llama_dir, "--to", "int3", "--output", "x")
    assert "--to: must be something to export to, got 'int3'; did you mean" in said
    with pytest.raises(ArtifactError, match="must be the record of an export"):
        read(tmp_path / "export.json", Export)
