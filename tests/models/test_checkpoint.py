from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fusegpt.artifacts import check_file
from fusegpt.errors import ArtifactError
from fusegpt.models.checkpoints.chain import follow_deltas
from fusegpt.models.checkpoints.load import load
from fusegpt.models.checkpoints.save import save, write_delta
from fusegpt.models.surgery.removal import remove
from fusegpt.models.weights import fill
from fusegpt.results.digests import without_digest
from fusegpt.units import Unit
from tests import tiny

UP = "blocks.{}.mlp.up_proj.weight"


def apply_deltas(model, paths):
    places = {}
    follow_deltas(model, paths, places)
    fill(model.module.modules(), places, model.device)


@pytest.fixture
def pruned(tiny_llama_dir):
    model = load(tiny_llama_dir, dtype="float32")
    remove(model, Unit("block", 4), Unit("block", 1))
    return model


def test_plain_transformers_loads_a_checkpoint(pruned, tmp_path):
    save(pruned, tmp_path / "out", extra={"recipe_id": "x"}, card=lambda record: "# Card\n")

    assert without_digest((tmp_path / "out" / "README.md").read_text()) == "# Card\n"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = tiny.ids()
    with torch.no_grad():
        expected = pruned.module(ids).logits
        torch.testing.assert_close(plain(ids).logits, expected, atol=1e-5, rtol=1e-5)
    text = "Beautiful is better than ugly."
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(text)["input_ids"] == pruned.tokenizer(text)["input_ids"]
    assert not [file for file in (tmp_path / "out").iterdir() if file.suffix == ".bin"]


def test_the_notes_say_which_blocks_stayed(pruned, tmp_path):
    save(pruned, tmp_path / "out", extra={"recipe_id": "x"})
    notes = json.loads((tmp_path / "out" / "fusegpt.json").read_text())
    assert notes.pop("digest")
    for name, record in notes.pop("files").items():
        check_file(tmp_path / "out" / name, record)
    assert notes == {
        "num_blocks": 6,
        "kept": [0, 2, 3, 5],
        "removed": [Unit("block", 4).to_json(), Unit("block", 1).to_json()],
        "recipe_id": "x",
        "stored_dtypes": ["float32"],
    }
    again = load(tmp_path / "out", dtype="float32")
    assert (again.kept, again.removed) == (pruned.kept, pruned.removed)
    remove(again, Unit("block", 5))
    assert again.kept == [0, 2, 3]


def test_tied_embeddings_stay_tied(tiny_llama_dir, tmp_path):
    save(load(tiny_llama_dir, dtype="float32"), tmp_path / "out", extra={})
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    module = load(tmp_path / "out").module
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_saving_twice_gives_the_same_bytes(pruned, tmp_path):
    for name in ("one", "two"):
        save(pruned, tmp_path / name, extra={})
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_generation_config_that_transformers_refuses_to_save_is_copied(pruned, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    text = json.dumps({"temperature": 0.6, "do_sample": False, "top_p": 0.9})
    (source / "generation_config.json").write_text(text)
    pruned.source = source
    pruned.module.generation_config.temperature = 0.6
    save(pruned, tmp_path / "out", extra={})
    assert (tmp_path / "out" / "generation_config.json").read_text() == text
    assert pruned.module.generation_config.temperature == 0.6


def test_a_directory_that_is_taken_is_refused(pruned, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArtifactError, match="holds 'file', which is not part of this output"):
        save(pruned, tmp_path, extra={})
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_vision_tower_and_projector_survive_to_the_last_bit(tmp_path):
    model = tiny.model("llava")
    before = {k: v.clone() for k, v in model.module.state_dict().items() if "layers" not in k}
    remove(model, Unit("block", 2))
    save(model, tmp_path / "out", extra={})
    after = load(tmp_path / "out", dtype="float32").module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    tower = [name for name in after if "vision_tower" in name and "layers.5" in name]
    assert tower


def test_a_delta_holds_exactly_the_named_parameters(pruned, tmp_path):
    write_delta(pruned, tmp_path / "d.safetensors", [UP.format(5), UP.format(0)])
    tensors = load_file(tmp_path / "d.safetensors")
    assert sorted(tensors) == [UP.format(0), UP.format(5)]
    assert torch.equal(tensors[UP.format(5)], pruned.block(5).mlp.up_proj.weight)


def test_a_delta_is_applied_by_dense_index(pruned, tiny_llama_dir, tmp_path):
    pruned.block(5).mlp.up_proj.weight += 1
    write_delta(pruned, tmp_path / "d.safetensors", [UP.format(5)])
    other = load(tiny_llama_dir, dtype="float32")
    remove(other, Unit("block", 3))
    assert not torch.equal(other.parameter(UP.format(5)), pruned.parameter(UP.format(5)))
    apply_deltas(other, [tmp_path / "d.safetensors"])
    assert torch.equal(other.parameter(UP.format(5)), pruned.parameter(UP.format(5)))


def test_of_several_deltas_the_last_wins_and_removed_blocks_are_passed_over(pruned, tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    ones = torch.ones(64, 32)
    donor = {"donor/1": torch.zeros(1)}
    save_file({UP.format(i): ones.clone() for i in (0, 1, 2)} | donor, paths[0])
    save_file({UP.format(0): ones * 2, "fused/x": ones[0]}, paths[1])
    apply_deltas(pruned, paths)
    assert torch.equal(pruned.parameter(UP.format(0)), ones * 2)
    assert torch.equal(pruned.parameter(UP.format(2)), ones)
    assert sorted(pruned.adapter_state) == ["donor/1", "fused/x"]


def test_tensors_that_are_not_weights_travel_in_a_delta(pruned, tmp_path):
    shared = torch.arange(6.0)
    write_delta(pruned, tmp_path / "d", [], {"fused/a": shared[:3], "donor/b": shared})
    apply_deltas(pruned, [tmp_path / "d"])
    assert torch.equal(pruned.adapter_state["fused/a"], shared[:3])


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"blocks.0.mlp.nothing.weight": torch.zeros(1)}, "has no parameter 'blocks.0.mlp.noth"),
        ({UP.format(0): torch.zeros(2, 2)}, r"must have shape \[64, 32\], got \[2, 2\]"),
        ({"lm_head.weight": torch.zeros(1)}, r"must be named blocks\.<dense index>"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(pruned, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "d.safetensors")
    with pytest.raises(ArtifactError, match=message):
        apply_deltas(pruned, [tmp_path / "d.safetensors"])


def test_a_corrupt_delta_is_refused(pruned, tmp_path):
    (tmp_path / "d.safetensors").write_bytes(b"nonsense")
    for name in ("d.safetensors", "absent.safetensors"):
        with pytest.raises(ArtifactError, match="not a readable safetensors file"):
            apply_deltas(pruned, [tmp_path / name])
