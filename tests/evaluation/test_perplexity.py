import math
import shutil
import weakref

import numpy as np
import pytest
import torch

from fusegpt.data.tokens import encode, load_tokenizer
from fusegpt.data.window_files import write_windows
from fusegpt.data.windows import at_random
from fusegpt.errors import (
    ArchitectureError,
    ArtifactError,
    ConfigError,
    DataError,
    NumericsError,
)
from fusegpt.evaluation import EVALS
from fusegpt.evaluation import perplexity as perplexity_module
from fusegpt.evaluation.perplexity import perplexity, plan, window_losses
from fusegpt.evaluation.settings import Perplexity
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load(tiny_llama_dir, dtype="float32")


@pytest.fixture(scope="module")
def windows(tiny_llama_dir):
    return plan(tiny_llama_dir, {}, Perplexity(corpus="python_docs", length=64, windows=7))


def exact_perplexity(module, ids):
    """All logits at once in float64, one window after another."""
    module = module.double()
    nats = 0.0
    for window in ids:
        logits = module(window[None]).logits[0].double()
        logp = logits - logits.logsumexp(dim=-1, keepdim=True)
        loss = -sum(logp[t, window[t + 1]].item() for t in range(len(window) - 1))
        nats += loss / (len(window) - 1) * len(window)
    return math.exp(nats / ids.numel())


def family(name):
    """Tiny models whose logits are capped, scaled or projected after the last block."""
    import transformers as t

    common = dict(vocab_size=97, num_hidden_layers=2, hidden_size=32, num_attention_heads=4)
    llama = dict(common, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=64)
    configs = {
        "gemma2": lambda: t.Gemma2Config(**llama, head_dim=8, final_logit_softcapping=0.05),
        "granite": lambda: t.GraniteConfig(**llama, logits_scaling=0.1),
        "cohere": lambda: t.CohereConfig(**llama, logit_scale=4.0),
        "opt": lambda: t.OPTConfig(
            **common, ffn_dim=48, word_embed_proj_dim=16, max_position_embeddings=64
        ),
        "gpt2": lambda: t.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
        "bloom": lambda: t.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    }
    torch.manual_seed(0)
    return t.AutoModelForCausalLM.from_config(configs[name]())


def test_the_value_equals_full_float64_logits(tiny_llama_dir, model, windows, monkeypatch):
    monkeypatch.setattr(perplexity_module, "LOGITS_AT_ONCE", 20 * model.text_config.vocab_size)
    (row,) = perplexity(model, windows)
    exact = exact_perplexity(load(tiny_llama_dir, dtype="float32").module, windows.ids)
    assert row["value"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere", "opt", "gpt2", "bloom"])
def test_whatever_follows_the_last_block_is_the_models_own(name, monkeypatch):
    monkeypatch.setattr(perplexity_module, "LOGITS_AT_ONCE", 7 * 97)
    ids = torch.randint(97, (3, 33), generator=torch.Generator().manual_seed(0))
    model = Model.dense(family(name))
    nats = window_losses(model, ids, batch_size=2).mean()
    with torch.no_grad():
        assert nats.exp() == pytest.approx(exact_perplexity(model.module, ids), rel=1e-5)


def test_the_logits_of_a_window_never_exist_whole(model, windows, monkeypatch):
    seen = []
    monkeypatch.setattr(perplexity_module, "LOGITS_AT_ONCE", 10 * model.text_config.vocab_size)
    head = model.module.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, __, out: seen.append(out.shape[:2].numel()))
    window_losses(model, windows.ids, batch_size=2)
    handle.remove()
    assert max(seen) <= 10 and sum(seen) >= windows.ids[:, 1:].numel()


def test_the_batch_size_does_not_change_the_result(model, windows):
    losses = [window_losses(model, windows.ids, batch_size=size) for size in (1, 3, 7)]
    for other in losses[1:]:
        torch.testing.assert_close(losses[0], other, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't "
     "allocate memory: you tried to allocate 9 bytes")],
)  # fmt: skip
def test_running_out_of_memory_halves_the_batch(model, windows, monkeypatch, error):
    wanted, sizes, real = window_losses(model, windows.ids), [], perplexity_module._batch_losses

    def small_machine(model, batch, hidden):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return real(model, batch, hidden)

    monkeypatch.setattr(perplexity_module, "_batch_losses", small_machine)
    losses = window_losses(model, windows.ids, batch_size=6)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=0)


def test_cached_memory_is_given_back_when_nothing_of_the_failed_batch_is_left(
    model, windows, monkeypatch
):
    made, alive, real = [], [], perplexity_module._batch_losses

    def small_machine(model, batch, hidden):
        if len(batch) > 2:
            activations = torch.zeros(9)
            made.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch, hidden)

    monkeypatch.setattr(perplexity_module, "_batch_losses", small_machine)
    monkeypatch.setattr(perplexity_module, "give_back", lambda device: alive.append(made[-1]()))
    window_losses(model, windows.ids[:4], batch_size=4)
    assert alive == [None]


def test_a_window_that_never_fits_is_said(model, windows, monkeypatch):
    def no_machine(model, batch, hidden):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(perplexity_module, "_batch_losses", no_machine)
    with pytest.raises(ConfigError, match="a window of 64 tokens does not fit into the memory"):
        window_losses(model, windows.ids)


def test_other_runtime_errors_are_not_swallowed(model, windows, monkeypatch):
    def broken(model, batch, hidden):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(perplexity_module, "_batch_losses", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        window_losses(model, windows.ids)


def test_a_model_whose_blocks_cannot_be_cut_off_is_run_whole(model, windows, monkeypatch):
    wanted = window_losses(model, windows.ids)

    def refuse(*_):
        raise ArchitectureError("blocks run twice")

    monkeypatch.setattr(perplexity_module, "record", refuse)
    torch.testing.assert_close(window_losses(model, windows.ids), wanted, rtol=1e-6, atol=0)


def test_a_loss_that_is_not_finite_names_the_window(tiny_llama_dir, windows):
    broken = load(tiny_llama_dir, dtype="float32")
    broken.block(3).mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="loss of window 0 is nan; 7 of 7 windows"):
        perplexity(broken, windows)


def test_the_row_says_what_decides_the_number(model, windows):
    (row,) = perplexity(model, windows)
    assert set(row) == {
        "task", "metric", "value", "unit", "higher_is_better", "num_samples", "protocol",
        "items",
    }  # fmt: skip
    assert (row["task"], row["metric"], row["num_samples"]) == ("python_docs", "perplexity", 7)
    assert row["higher_is_better"] is False
    expected = {"corpus": "python_docs", "split": "test", "length": 64, "windows": 7}
    expected |= {"join": "\n\n", "bos": "stream", "cut": "consecutive", "dtype": "float32"}
    assert expected.items() <= row["protocol"].items()


def test_the_windows_losses_are_kept(model, windows):
    from fusegpt.evaluation.items import unpack

    (row,) = perplexity(model, windows)
    losses = unpack(row["items"]["values"])
    assert row["items"]["statistic"] == "exp_mean" and len(losses) == 7
    assert math.exp(losses.mean()) == pytest.approx(row["value"], rel=1e-8)


def test_windows_follow_each_other_from_the_start(tiny_llama_dir, windows):
    from fusegpt.data.corpora import load_text

    tokens = encode(load_tokenizer(tiny_llama_dir), load_text("python_docs", "test").text)
    assert np.array_equal(windows.ids.flatten(), tokens[: 7 * 64])
    assert windows.protocol["tokens"] == len(tokens)


def test_windows_may_lie_inside_single_documents(tiny_llama_dir, tmp_path):
    """The draws of GPTQ's loader, written out."""
    import json
    import random

    rows = [f"{word} is better than {word}. " * (i * 4) for i, word in enumerate("abcdef")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    settings = {"corpus": str(tmp_path / "c.jsonl"), "length": 60, "windows": 9}
    cut = plan(tiny_llama_dir, {}, Perplexity(**settings, cut="documents"))
    tokenizer, expected = load_tokenizer(tiny_llama_dir), []
    random.seed(0)
    for _ in range(9):
        while True:
            ids = encode(tokenizer, rows[random.randint(0, len(rows) - 1)])
            if len(ids) > 60:
                break
        place = random.randint(0, len(ids) - 60 - 1)
        expected.append(ids[place : place + 60])
    assert np.array_equal(cut.ids, np.stack(expected))
    assert cut.protocol["cut"] == "one document each, random, seed 0"
    with pytest.raises(ConfigError, match="windows: must be given for cut 'documents'"):
        plan(tiny_llama_dir, {}, Perplexity(**{**settings, "windows": None}, cut="documents"))
    with pytest.raises(DataError, match="no document is longer than a window of 500 tokens"):
        plan(tiny_llama_dir, {}, Perplexity(**{**settings, "length": 500}, cut="documents"))


def test_all_windows_are_taken_unless_limited(tiny_llama_dir):
    everything = plan(tiny_llama_dir, {}, Perplexity(corpus="python_docs", length=64))
    assert len(everything.ids) == everything.protocol["tokens"] // 64


def test_bos_may_open_every_window(tiny_llama_dir, windows):
    opened = plan(
        tiny_llama_dir, {}, Perplexity(corpus="python_docs", length=65, windows=7, bos="window")
    )
    bos = load_tokenizer(tiny_llama_dir).bos_token_id
    assert (opened.ids[:, 0] == bos).all()
    assert torch.equal(opened.ids[:, 1:], windows.ids)


def write_sample(directory, path, **changes):
    from fusegpt.data.tokens import fingerprint

    tokenizer = load_tokenizer(directory)
    ids = at_random(encode(tokenizer, "now is better than never " * 99), 5, 32, 0)
    meta = {"corpus": "zen", "split": "train", "length": 32, "seed": 0}
    meta |= {"tokenizer_sha256": fingerprint(tokenizer), **changes}
    write_windows(path, ids, meta)
    return ids


def test_a_file_of_windows_is_taken_as_it_is(tiny_llama_dir, tmp_path):
    ids = write_sample(tiny_llama_dir, tmp_path / "w.parquet")
    taken = plan(tiny_llama_dir, {}, Perplexity(corpus=str(tmp_path / "w.parquet"), windows=3))
    assert np.array_equal(taken.ids, ids[:3])
    assert taken.protocol["length"] == 32 and taken.protocol["cut"] == "random, seed 0"


def test_windows_of_another_tokenizer_are_refused(tiny_llama_dir, tmp_path):
    write_sample(tiny_llama_dir, tmp_path / "w.parquet", tokenizer_sha256="other")
    with pytest.raises(DataError, match="tokens of another tokenizer"):
        plan(tiny_llama_dir, {}, Perplexity(corpus=str(tmp_path / "w.parquet")))


def test_what_cannot_work_is_refused_before_the_weights_are_read(tiny_llama_dir, tmp_path):
    directory = tmp_path / "m"
    shutil.copytree(tiny_llama_dir, directory)
    (directory / "model.safetensors").write_bytes(b"not weights")
    refuse = [
        (ConfigError, "length: must be at most 512, the model's positions, got 2048", {}),
        (ConfigError, "length: must be at least 2, got 1", {"length": 1}),
        (DataError, "lower the windows to", {"length": 512, "windows": 10**6}),
        (DataError, "no split 'valid'", {"length": 64, "split": "valid"}),
    ]
    for kind, message, settings in refuse:
        with pytest.raises(kind, match=message):
            plan(directory, {}, Perplexity(**{"corpus": "python_docs", **settings}))
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(DataError, match=r"tokens there, one window needs 64; lower the length"):
        plan(directory, {}, Perplexity(corpus=str(tmp_path / "short.txt"), length=64))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    with pytest.raises(ArtifactError, match="no tokenizer here"):
        plan(directory, {}, Perplexity(corpus="python_docs", length=64))


def test_the_settings_are_the_plans():
    from fusegpt.methods import bind

    bound = bind(EVALS["perplexity"], {"length": 1024}, "evaluations.here")
    assert bound.model_dump() == {
        "corpus": "wikitext2", "split": "test", "length": 1024, "windows": None, "bos": "stream",
        "cut": "consecutive",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"evaluations.here: unknown setting 'lenght'; did you"):
        bind(EVALS["perplexity"], {"lenght": 1024}, "evaluations.here")
