"""Finishes: what they train, what changes rounding only, and that they resume to the bit."""

import weakref

import pytest
import torch

from fusegpt.data.streamed import Streamed
from fusegpt.data.window_files import write_windows
from fusegpt.errors import DataError
from fusegpt.models.flops import forward_flops
from fusegpt.models.surgery.removal import remove
from fusegpt.recovery import FINISHES
from fusegpt.recovery.healing import heal
from fusegpt.recovery.healing.answers import answer_windows, read_answers
from fusegpt.recovery.healing.objective import Objective
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.finish import Distill, Full, LoraFinish
from fusegpt.units import Unit
from tests import tiny
from tests.quick import each
from tests.recovery.dying import Dying, Killed

FAST = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2}
ALL = {"full": Full, "lora": LoraFinish, "distill": Distill}


def pruned(family="llama", dtype=torch.float32):
    model = tiny.model(family, dtype=dtype)
    remove(model, Unit("block", 2), Unit("block", 3))
    return model


@pytest.fixture
def windows():
    return tiny.ids(8, 10, seed=3)


@pytest.fixture
def answered(windows, tmp_path):
    """A function that has the dense model answer the windows."""
    write_windows(tmp_path / "windows.parquet", windows.numpy(), {"corpus": "random"})

    def make(top_k=8, temperature=1.0, dtype=torch.float32, family="llama"):
        dense = tiny.model(family, dtype=dtype)
        dense.source = tmp_path
        out = tmp_path / f"answers-{top_k}-{temperature}-{dtype}"
        answer_windows(
            dense, tmp_path / "windows.parquet", out, top_k=top_k, temperature=temperature
        )
        return read_answers(out, tmp_path / "windows.parquet", top_k, temperature)

    return make


def finish(name, model, windows, answered, checkpoint=None, **settings):
    chosen = ALL[name](**{**FAST, **({"top_k": 8} if name == "distill" else {}), **settings})
    given = answered(chosen.top_k, chosen.temperature) if name == "distill" else None
    finisher = FINISHES[name].load()
    data = Streamed.of(windows)
    return finisher(model, data, chosen, seed=0, checkpoint=checkpoint, answers=given)


@torch.no_grad()
def first_loss(model, data, settings, objective):
    return heal.batch_losses(model, data, settings, objective)(0).item()


def weights(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize("family", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("name", ALL)
def test_it_lowers_the_loss_and_changes_the_blocks_alone(name, family, windows, answered):
    model = pruned(family)
    before = weights(model)
    report = finish(name, model, windows, lambda *given: answered(*given, family=family))
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]
    assert report.optimizer_steps == 6 and report.tokens == 6 * 4 * 10
    assert not any(p.requires_grad for p in model.module.parameters())
    in_blocks = {id(p) for block in model.blocks for p in block.parameters()}
    for key, parameter in model.module.named_parameters():
        tuned = id(parameter) in in_blocks and (name != "lora" or parameter.dim() >= 2)
        assert torch.equal(before[key], parameter) != tuned, key
    assert list(before) == list(weights(model))


def test_gaps_are_the_blocks_beside_removed_ones(windows, answered):
    model = pruned()
    before = weights(model)
    report = finish("distill", model, windows, answered, train="gaps")
    assert report.group == [1, 4]
    for key, value in weights(model).items():
        block = key.removeprefix("model.layers.")[0]
        assert torch.equal(before[key], value) != ("layers" in key and block in "12"), key


@pytest.mark.parametrize("family", ["llama_tied", "gpt2"])
def test_all_are_the_blocks_and_what_is_around_them(family, windows, answered):
    model = pruned(family)
    before = weights(model)
    report = finish(
        "distill", model, windows, lambda *given: answered(*given, family=family), train="all"
    )
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]
    parameters = dict(model.module.named_parameters())
    assert report.trainable_parameters == sum(p.numel() for p in parameters.values())
    assert [name for name, p in parameters.items() if torch.equal(before[name], p)] == []


@pytest.mark.parametrize("name", each(ALL, quick=("full", "distill")))
def test_chunks_and_micro_batches_change_rounding_only(name, windows, answered):
    models = [pruned("llama_tied") for _ in range(2)]
    more = {} if name == "lora" else {"train": "all"}
    for model, (chunk, size) in zip(models, ((256, 4), (2, 1)), strict=True):
        finish(name, model, windows, answered, chunk=chunk, micro_batch_size=size, **more)
    one, other = map(weights, models)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=2e-4)


def test_the_logits_of_a_chunk_are_gone_before_anything_else_is_made(windows, monkeypatch):
    made, alive = [], []
    logits, backward = heal.head_logits, torch.autograd.backward

    def noting(*given):
        alive.append([one() is not None for one in made])
        found = logits(*given)
        made.append(weakref.ref(found))
        return found

    def going_back(tensors, *given, **named):
        if isinstance(tensors, list):  # through the blocks
            alive.append([one() is not None for one in made])
        backward(tensors, *given, **named)

    monkeypatch.setattr(heal, "head_logits", noting)
    monkeypatch.setattr(heal.torch.autograd, "backward", going_back)
    model, settings = pruned(), Full(**FAST, chunk=4)
    model.module.requires_grad_(True)
    heal.batch_losses(model, Streamed.of(windows), settings, Objective())(0)
    assert len(made) > 2 and len(alive) > len(made)
    assert not any(map(any, alive))


def test_computing_states_again_changes_no_bit_and_is_counted(windows, answered):
    models = [pruned() for _ in range(2)]
    reports = [
        finish("distill", model, windows, answered, checkpointing=again)
        for model, again in zip(models, (False, True), strict=True)
    ]
    one, other = map(weights, models)
    assert all(torch.equal(one[key], other[key]) for key in one)
    forward = forward_flops(models[0], models[0].kept, reports[0].tokens, 10)
    assert reports[1].flops - reports[0].flops == forward


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("full", "llama"),
        ("full", "mllama"),  # text passes over its last block, whose weights get no gradient
        ("distill", "llama"),
        pytest.param("lora", "llama", marks=pytest.mark.slow),
    ],
)
def test_a_killed_finish_goes_on_and_ends_with_the_same_bits(
    name, family, windows, answered, tmp_path
):
    dtype = torch.bfloat16 if name == "full" else torch.float32
    whole, killed, resumed = (pruned(family, dtype) for _ in range(3))
    finish(name, whole, windows, answered)
    file = tmp_path / "resume.safetensors"
    with pytest.raises(Killed):
        finish(name, killed, windows, answered, Dying(file))
    checkpoint = Checkpoint(file, "x")
    finish(name, resumed, windows, answered, checkpoint)
    assert checkpoint.before > 0
    assert all(torch.equal(v, weights(resumed)[n]) for n, v in weights(whole).items())


@pytest.mark.parametrize("name", ["full", "lora"])
def test_fused_steps_of_whole_weights_are_plain_ones_but_for_rounding(
    name, windows, answered, monkeypatch
):
    asked, plain, fused = [], torch.optim.Adam, pruned()
    monkeypatch.setattr(
        torch.optim, "Adam", lambda *args, **rest: asked.append(rest) or plain(*args, **rest)
    )
    finish(name, fused, windows, answered)
    assert bool(asked[0]["fused"]) == (name == "full")

    monkeypatch.setattr(
        torch.optim, "Adam", lambda *args, **rest: plain(*args, **{**rest, "fused": None})
    )
    other = pruned()
    finish(name, other, windows, answered)
    for key, value in weights(other).items():
        assert torch.allclose(weights(fused)[key], value, rtol=1e-4, atol=1e-5)


def test_masters_of_bfloat16_weights_are_float32(windows, answered):
    model = pruned(dtype=torch.bfloat16)
    before = weights(model)
    # an update far below what bfloat16 resolves, many times over
    finish("full", model, windows, answered, learning_rate=1e-4, tokens=40 * 40, clip_norm=0)
    moved = [key for key, value in weights(model).items() if not torch.equal(value, before[key])]
    assert len(moved) >= 0.7 * sum("layers" in key for key in before)


def test_the_first_loss_of_full_is_the_plain_loss_of_the_next_token(windows, answered):
    model = pruned()
    logits = model.module(windows[:4]).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:4, 1:].flatten())
    report = finish("full", model, windows, answered)
    assert report.rows[0]["loss"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_whole_vocabulary_gives_the_exact_divergence(temperature, windows, answered):
    student, dense = pruned(), tiny.model("llama")
    one, other = (
        model.module(windows[:4]).logits[:, :-1] / temperature for model in (dense, student)
    )
    expected = torch.nn.functional.kl_div(
        other.log_softmax(-1), one.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    for top_k in (None, 128):
        given = answered(top_k, temperature)
        found = first_loss(
            student,
            Streamed.of(windows),
            Distill(batch_size=4),
            Objective(given, temperature, next_token=0.0),
        )
        assert found == pytest.approx(expected.mean().item() * temperature**2, rel=1e-5)


def test_masked_tokens_are_not_learned(windows):
    learned = torch.ones(8, 10, dtype=torch.bool)
    learned[:, :6] = False
    data = Streamed.of(windows, learned)
    model = pruned()
    logits = model.module(windows[:4]).logits[:, 5:-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:4, 6:].flatten())
    found = first_loss(model, data, Full(batch_size=4, chunk=3), Objective())
    assert found == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("start", [tiny.model, pruned])
def test_hidden_terms_compare_blocks_by_their_dense_numbers(start, windows):
    """Also where pruning began with a model that lacks blocks already."""
    given = (Streamed.of(windows), Full(batch_size=4))
    same = first_loss(start(), *given, Objective(next_token=1.0, hidden=1.0, dense=start()))
    assert same == pytest.approx(first_loss(start(), *given, Objective()), rel=1e-6)


def test_a_budget_of_tokens_may_end_inside_an_epoch(windows, answered):
    report = finish("full", pruned(), windows, answered, tokens=5 * 40 + 3, warmup=0.4)
    assert report.optimizer_steps == 5
    assert [row["epoch"] for row in report.rows] == [0, 0, 1, 1, 2]
    rates = [row["learning_rate"] for row in report.rows]  # two steps up, three down
    assert rates[:3] == pytest.approx([0.005, 0.01, 0.01]) and rates[2] > rates[3] > rates[4] > 0


def test_the_rate_may_stay_at_its_peak(windows, answered):
    steady = {"warmup_steps": 2, "decay": "constant"}
    report = finish("lora", pruned(), windows, answered, **steady)
    assert [row["learning_rate"] for row in report.rows] == [0.005, *[0.01] * 5]


@pytest.mark.parametrize("train", ["full", "all", "lora"])
def test_a_rise_of_the_loss_is_undone(train, windows, answered):
    model = pruned()
    before = weights(model)
    wild = {"learning_rate": 100.0, "clip_norm": 0, "epochs": 1}
    report = finish("distill", model, windows, answered, train=train, **wild)
    assert report.undone
    assert all(torch.equal(v, weights(model)[n]) for n, v in before.items())


@pytest.mark.parametrize("name", ["full", "lora"])
def test_weights_that_give_no_number_are_undone(name, windows, answered):
    """The only step has a finite loss, and what it leaves has none."""
    model = pruned()
    before = weights(model)
    wild = {"learning_rate": 1e25, "clip_norm": 0, "epochs": 1, "batch_size": 8, "warmup": 0}
    assert finish(name, model, windows, answered, **wild).undone
    assert all(torch.equal(v, weights(model)[n]) for n, v in before.items())


def test_bad_data_are_refused_in_one_line(windows, answered, tmp_path):
    with pytest.raises(
        DataError, match="one batch of 4 windows and one optimiser step, got 3 windows"
    ):
        finish("full", pruned(), windows[:3], answered)
    with pytest.raises(DataError, match="needs a teacher's answers"):
        FINISHES["distill"].load()(pruned(), Streamed.of(windows), Distill(), seed=0)
    given = answered(8)
    model = pruned()
    model.text_config.vocab_size = 64
    with pytest.raises(DataError, match="vocabulary of 64 tokens, has 128"):
        FINISHES["distill"].load()(model, Streamed.of(windows), Distill(), seed=0, answers=given)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_after_an_error_the_model_is_plain_and_as_it_was(name, windows, answered, tmp_path):
    model = pruned()
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    with pytest.raises(Killed):
        finish(name, model, windows, answered, Dying(tmp_path / "resume.safetensors"))
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(p.requires_grad for p in model.module.parameters())
