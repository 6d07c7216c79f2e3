"""Quantised weights and adapters are refused wherever a model comes in, before it is read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusegpt.cli import main
from fusegpt.data import hub, sources
from fusegpt.data.sources import fetch
from fusegpt.errors import ArtifactError
from fusegpt.models.checkpoints.directory import load_structure
from fusegpt.models.checkpoints.load import load

METHODS = [
    *("fp8", "mxfp4", "gptq", "awq", "bitsandbytes", "compressed-tensors", "hqq", "aqlm"),
    *("torchao", "quanto", "eetq", "higgs", "vptq", "bitnet", "spqr", "fbgemm_fp8", "modelopt"),
]
WAYS = {
    "fetch": lambda source, out: fetch(f"dir:{source}", out),
    "load": lambda source, out: load(source),
    "check": lambda source, out: load_structure(source),
}
UP = "model.layers.5.mlp.up_proj.weight"


@pytest.fixture
def source(tiny_llama_dir, tmp_path):
    return shutil.copytree(tiny_llama_dir, tmp_path / "source")


def edit(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        *(({"quantization_config": {"quant_method": name}}, name) for name in METHODS),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config in config.json"),
        ({"compression_config": {"format": "float-quantized"}}, "float-quantized"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization: 4"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
    ],
)
def test_a_quantised_source_is_refused_by_its_config(source, tmp_path, way, entry, shown):
    (source / "model.safetensors").write_bytes(b"never read")
    edit(source, **entry)
    with pytest.raises(ArtifactError, match=r"must hold plain weights.*dequantise them") as caught:
        WAYS[way](source, tmp_path / "out")
    assert shown in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.int32, "I32"),
    ],
)
def test_a_quantised_source_whose_config_does_not_say_so_is_refused_by_its_header(
    source, tmp_path, way, dtype, shown
):
    tensors = load_file(source / "model.safetensors")
    tensors[UP] = tensors[UP].to(dtype)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=f"must hold plain weights, got {UP} as {shown}"):
        WAYS[way](source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_buffers_of_whole_numbers_are_plain(source, tmp_path):
    tensors = load_file(source / "model.safetensors")
    tensors["model.mask"] = torch.ones(4, 4, dtype=torch.uint8)
    tensors["model.position_ids"] = torch.arange(4)[None]
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    edit(source, quantization_config=None)
    fetch(f"dir:{source}", tmp_path / "out")
    assert load(tmp_path / "out").num_blocks == 6


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_to_be_merged_first(source, tmp_path, way, whole):
    (source / "adapter_config.json").write_text("{}")
    if not whole:
        (source / "config.json").unlink()
    with pytest.raises(ArtifactError, match="merge the adapter into its model first"):
        WAYS[way](source, tmp_path / "out")


def test_of_a_model_on_the_hub_the_config_is_asked_before_its_weights(
    source, tmp_path, monkeypatch
):
    edit(source, quantization_config={"quant_method": "fp8"})
    asked = []
    monkeypatch.setattr(sources, "model_snapshot", lambda *args: asked.append(args[2]) or source)
    with pytest.raises(ArtifactError, match="quantization_config: fp8"):
        fetch("hub:org/name@main", tmp_path / "out")
    assert asked == [["*.json"]]


def test_check_asks_the_config_on_the_hub_before_its_weights(source, monkeypatch, capsys):
    edit(source, quantization_config={"quant_method": "fp8"})
    asked = []
    monkeypatch.setattr(hub, "model_snapshot", lambda *args: asked.append(args[2]) or source)
    with pytest.raises(SystemExit) as stop:
        main(["check", "org/name"])
    assert stop.value.code == 2 and asked == [["*.json"]]
    assert "must hold plain weights" in capsys.readouterr().err


def test_check_says_it_in_one_line(source, capsys):
    edit(source, quantization_config={"quant_method": "fp8"})
    with pytest.raises(SystemExit) as stop:
        main(["check", str(source)])
    assert stop.value.code == 2
    assert "must hold plain weights, got quantised ones" in capsys.readouterr().err
