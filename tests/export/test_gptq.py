"""Four bits by GPTQ: what is refused, and what llm-compressor writes where it is installed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from fusegpt.artifacts import read_json
from fusegpt.data.window_files import write_windows
from fusegpt.errors import ConfigError
from fusegpt.exports.gptq_tools import TOOL, check_gptq
from fusegpt.exports.job import export_model
from fusegpt.exports.targets import parse_target
from fusegpt.models.checkpoints.load import load
from fusegpt.results.base import read
from fusegpt.results.exports import Export
from tests.workflow.test_exports import gptq_in

GPTQ, INT4 = parse_target("gptq4"), parse_target("int4")


@pytest.fixture
def windows(tmp_path):
    """Sixteen windows of 64 tokens."""
    ids = torch.randint(3, 300, (16, 64), generator=torch.Generator().manual_seed(0))
    write_windows(tmp_path / "windows.parquet", ids, {"corpus": "noise", "length": 64})
    return tmp_path / "windows.parquet"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment where llm-compressor seems to be, whose Python does nothing but refuse."""
    folder = gptq_in(tmp_path / "gptq")
    (folder / "bin/python").write_text("#!/bin/sh\necho 'ValueError: no such model' >&2\nexit 1\n")
    (folder / "bin/python").chmod(0o755)
    monkeypatch.setenv("FUSEGPT_GPTQ", str(folder))
    return folder


def test_a_missing_llm_compressor_is_named_with_what_installs_it(tmp_path, monkeypatch, windows):
    monkeypatch.setenv("FUSEGPT_GPTQ", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError) as caught:
        export_model(tmp_path, GPTQ, tmp_path / "small", windows)
    said = str(caught.value)
    assert said.startswith(
        f"--to gptq4: must have {TOOL} in {tmp_path / 'nowhere'}, an environment"
    )
    assert "run make gptq-tools, or python -m venv" in said and "\n" not in said


@pytest.mark.parametrize(("target", "given"), [(GPTQ, False), (INT4, True)])
def test_only_gptq_reads_windows(target, given, tmp_path, windows):
    with pytest.raises(ConfigError, match="windows to read; see --calibration"):
        export_model(tmp_path, target, tmp_path / "small", windows if given else None)


def test_what_llm_compressor_says_last_is_the_error_and_nothing_is_left(
    environment, tiny_llama_dir, tmp_path, windows
):
    with pytest.raises(ConfigError, match="llm-compressor must take it, got: ValueError: no such"):
        export_model(tiny_llama_dir, GPTQ, tmp_path / "small", windows)
    assert not list(tmp_path.glob("*small*"))


@pytest.mark.slow
def test_gptq_writes_what_int4_does_with_other_codes(tiny_llama_dir, tmp_path, windows):
    try:
        check_gptq("this test")
    except ConfigError as error:
        pytest.skip(str(error))

    made = export_model(tiny_llama_dir, GPTQ, tmp_path / "gptq4", windows)
    export_model(tiny_llama_dir, INT4, tmp_path / "int4")

    assert made == read(tmp_path / "gptq4/export.json", Export)
    assert made.tools["llmcompressor"] and made.checks["windows"].startswith("None of 64")
    assert abs(made.checks["quantised_nats"] - made.checks["nats"]) < 0.1
    found, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("gptq4", "int4"))
    assert {name: (x.shape, x.dtype) for name, x in found.items()} == {
        name: (x.shape, x.dtype) for name, x in plain.items()
    }
    for name, tensor in found.items():
        rounded = name.endswith((".weight_packed", ".weight_scale"))
        assert torch.equal(tensor, plain[name]) != rounded, name
    configs = [read_json(tmp_path / name / "config.json") for name in ("gptq4", "int4")]
    assert configs[0] == configs[1]
    ids = torch.randint(3, 300, (8, 64), generator=torch.Generator().manual_seed(1))
    dense = load(tiny_llama_dir, dtype="float32")
    error = {}
    for name in ("gptq4", "int4"):
        model = load(tmp_path / name, dtype="float32", packed=True)
        with torch.no_grad():
            gap = model.module(ids).logits - dense.module(ids).logits
        error[name] = float(gap.square().mean())
    assert error["gptq4"] < 2 * error["int4"]
