"""Weights are read once, into memory of their own, and only those that are needed."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from fusegpt.artifacts import write_json
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save
from fusegpt.models.stored import Stored, stored_in
from fusegpt.runtime import quiet
from tests import tiny
from tests.models.test_chain import link
from tests.quick import slow

MIB = 2**20


@pytest.fixture
def reads(monkeypatch):
    """Every tensor that is read, in order."""
    found = []
    plain = Stored.read

    def read(self):
        found.append(self)
        return plain(self)

    monkeypatch.setattr(Stored, "read", read)
    return found


@pytest.mark.parametrize("equal", [True, False])
def test_a_tied_weight_that_is_stored_twice_is_tied_as_transformers_ties_it(equal, tmp_path):
    module = tiny.build("llama", tie_word_embeddings=True)
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    if not equal:
        tensors["lm_head.weight"][3, 1] += 1
    module.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with quiet():
        plain = type(module).from_pretrained(tmp_path)
    model = load(tmp_path, dtype="float32")
    assert model.module.num_parameters() == plain.num_parameters()
    assert model.module.all_tied_weights_keys == plain.all_tied_weights_keys
    assert torch.equal(model.module.lm_head.weight, plain.lm_head.weight)
    save(model, tmp_path / "written", extra={})
    again = stored_in([tmp_path / "written" / "model.safetensors"])
    assert ("lm_head.weight" in again) is not equal


@pytest.mark.parametrize(
    "family, dtype",
    [
        ("llama", "float32"),
        *(
            (name, "bfloat16") if name in tiny.REPRESENTATIVES else slow(name, "bfloat16")
            for name in tiny.FAMILIES
        ),
        *(slow(name, "float32") for name in tiny.FAMILIES if name != "llama"),
    ],
)
def test_a_model_is_loaded_as_transformers_loads_it(family, dtype, tmp_path):
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, e.g. about slow kernels
        module = tiny.build(family)
        module.save_pretrained(tmp_path)
        plain = type(module).from_pretrained(tmp_path, dtype=dtype)
        ours = load(tmp_path, dtype=dtype).module
    assert list(ours.state_dict()) == list(plain.state_dict())
    for mine, theirs in ((ours.state_dict(), plain.state_dict()), (buffers(ours), buffers(plain))):
        for name, value in theirs.items():
            assert mine[name].dtype == value.dtype, name
            assert torch.equal(mine[name].nan_to_num(), value.nan_to_num()), name
    assert sum(1 for _ in ours.parameters()) == sum(1 for _ in plain.parameters())  # ties
    assert ours.config.to_dict() == plain.config.to_dict()
    assert ours.generation_config.to_dict() == plain.generation_config.to_dict()
    assert (ours.name_or_path, ours.config.name_or_path) == (str(tmp_path), str(tmp_path))


def buffers(module):
    return dict(module.named_buffers())


def test_every_tensor_of_a_file_is_read_once(tiny_llama_dir, reads):
    load(tiny_llama_dir)
    stored = stored_in([tiny_llama_dir / "model.safetensors"])
    assert sorted(map(repr, reads)) == sorted(map(repr, stored.values()))


def test_weights_of_removed_blocks_are_not_read(tiny_llama_dir, tmp_path, reads):
    write_json(tmp_path / "source.json", {})
    for file in tiny_llama_dir.iterdir():
        (tmp_path / file.name).symlink_to(file)
    start = tmp_path / "runs" / "step-000" / "manifest.json"
    write_json(start, {"kind": "start", "parent": link(tmp_path / "source.json", start.parent)})
    step = tmp_path / "runs" / "step-001"
    notes = {"kind": "step", "step": 1, "unit": {"granularity": "block", "index": 2}}
    write_json(step / "manifest.json", {**notes, "parent": link(start, step), "files": {}})

    assert load(step).kept == [0, 1, 3, 4, 5]
    stored = stored_in([tmp_path / "model.safetensors"])
    left = [place for name, place in stored.items() if ".layers.2." not in name]
    assert len(left) < len(stored)
    assert sorted(map(repr, reads)) == sorted(map(repr, left))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A random Llama of 130 MiB in float32, in eight blocks of 12 MiB and 34 MiB of embeddings."""
    directory = tmp_path_factory.mktemp("large")
    config = LlamaConfig(
        vocab_size=16000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    return directory


PEAK = """
import sys
import transformers.models.llama.modeling_llama
from fusegpt.models.checkpoints.load import load
from fusegpt.runtime import peak_memory_gib, reset_peak_memory
for dtype in ("bfloat16", "float32"):
    assert reset_peak_memory()
    before = peak_memory_gib()
    model = load(sys.argv[1], dtype=dtype)
    size = sum(tensor.nbytes for tensor in model.module.parameters())
    print((peak_memory_gib() - before) * 2**30 / size)
    del model
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets the peak")
def test_a_process_holds_a_model_once(large):
    command = [sys.executable, "-c", PEAK, str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    other, same = map(float, done.stdout.split())
    assert same < 1.1
    assert other < 1.6  # one tensor at a time is there twice, and the largest is a quarter of all
