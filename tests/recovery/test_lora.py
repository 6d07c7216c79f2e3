"""LoRA after the last removal: PEFT merges into plain weights, and a seed gives the same bits."""

import copy

import pytest
import torch

from fusegpt.errors import ArchitectureError, DataError
from fusegpt.recovery.adapted import trained_updates
from fusegpt.recovery.lora import lora
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.whole import Lora
from tests import tiny
from tests.quick import slow
from tests.recovery.dying import Dying, Killed

SETTINGS = {"lora_rank": 4, "epochs": 3, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture
def windows():
    return tiny.ids(8, 10, seed=3)


def weights(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize("family", [slow("llama"), "llama_tied", "gpt2", slow("qwen2")])
def test_it_lowers_the_loss_and_leaves_a_plain_model(family, windows):
    model = tiny.model(family)
    before = weights(model)
    report = lora(model, windows, Lora(**SETTINGS), seed=0)
    after = weights(model)
    assert list(after) == list(before)
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]
    assert not any(p.requires_grad for p in model.module.parameters())
    in_blocks = {id(p) for block in model.blocks for p in block.parameters()}
    for name, parameter in model.module.named_parameters():
        tuned = id(parameter) in in_blocks and parameter.dim() >= 2
        assert torch.equal(before[name], parameter) != tuned, name


def test_the_first_loss_is_the_plain_models_next_token_loss(windows):
    model = tiny.model("llama")
    logits = model.module(windows[:4]).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:4, 1:].flatten())
    report = lora(model, windows, Lora(**SETTINGS), seed=0)
    assert report.rows[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert (report.optimizer_steps, report.tokens) == (6, 3 * 8 * 10)


def test_micro_batches_change_rounding_only(windows):
    models = [tiny.model("llama", dtype=torch.float64) for _ in range(2)]
    for model, size in zip(models, (4, 1), strict=True):
        lora(model, windows, Lora(**SETTINGS, micro_batch_size=size), seed=0)
    one, other = map(weights, models)
    for name in one:  # the factors are float32
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_weights_that_give_no_number_are_undone(windows):
    """The only step has a finite loss, and what it leaves has none."""
    model = tiny.model("llama")
    before = weights(model)
    assert lora(model, windows, Lora(epochs=1, batch_size=8, learning_rate=1e25), seed=0).undone
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_on_the_cpu_no_gpu_is_started(monkeypatch):
    def started(*_):
        pytest.fail("memory of every GPU would be taken")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", started)
    with trained_updates(tiny.model("llama"), 2, 4.0, 0):
        pass


def test_after_an_error_the_model_is_what_it_was(windows, tmp_path):
    model = tiny.model("llama")
    before, whole = weights(model), repr(model.module)
    with pytest.raises(Killed):
        lora(model, windows, Lora(**SETTINGS), seed=0, checkpoint=Dying(tmp_path / "x"))
    assert repr(model.module) == whole
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())


def test_a_seed_gives_the_same_bits_and_another_seed_others(windows):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    runs = []
    for seed in (0, 0, 1):
        model = tiny.model("llama")
        lora(model, windows, Lora(**SETTINGS), seed=seed)
        runs.append(weights(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])
    assert not all(torch.equal(runs[0][n], runs[2][n]) for n in runs[0])


def test_a_killed_run_ends_with_the_same_bits(windows, tmp_path):
    whole = tiny.model("llama")
    lora(whole, windows, Lora(**SETTINGS), seed=0)

    file = tmp_path / "resume.safetensors"
    with pytest.raises(Killed):
        dying = Dying(file)
        lora(tiny.model("llama"), windows, Lora(**SETTINGS), seed=0, checkpoint=dying)
    resumed = tiny.model("llama")
    lora(resumed, windows, Lora(**SETTINGS), seed=0, checkpoint=Checkpoint(file, "x"))
    assert all(torch.equal(v, weights(resumed)[n]) for n, v in weights(whole).items())


def test_a_rise_of_the_loss_is_undone(windows):
    model = tiny.model("llama")
    before = copy.deepcopy(weights(model))
    lora(model, windows, Lora(**{**SETTINGS, "epochs": 1, "learning_rate": 3.0}), seed=0)
    assert all(torch.equal(v, weights(model)[n]) for n, v in before.items())


def test_too_few_windows_are_refused(windows):
    with pytest.raises(DataError, match="3 sequences do not fill one batch of 4"):
        lora(tiny.model("llama"), windows[:3], Lora(**SETTINGS), seed=0)


def test_blocks_that_take_no_updates_are_refused_in_one_line(windows):
    with pytest.raises(ArchitectureError, match=r"MambaForCausalLM: low-rank .*'out_proj' is inc"):
        lora(tiny.model("mamba"), windows, Lora(batch_size=4), seed=0)
