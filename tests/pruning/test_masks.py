"""Padding changes no score and no weight, whatever scores and recovers."""

import copy
from types import SimpleNamespace

import pytest
import torch

from fusegpt.data.masked import Masked
from fusegpt.errors import DataError
from fusegpt.importance import METRICS
from fusegpt.pruning.loop import prune
from fusegpt.pruning.recipe import resolve
from fusegpt.pruning.scoring import score_step
from fusegpt.pruning.suits import check_masks
from fusegpt.recovery import RECOVERIES
from fusegpt.recovery.causal import batch_losses
from fusegpt.recovery.settings import RecoverySettings
from tests import required, tiny
from tests.quick import slow

LENGTHS = [9, 6, 9, 4, 7, 9, 5, 8]
BUDGET = {"group_size": 2, "lora_rank": 2, "rank": 2, "epochs": 1, "batch_size": 4}
WAYS = {
    **{name: {} for name in RECOVERIES if name != "none"},
    "fusion kl_batch": {"loss": "kl_batch"},
    "fusion kl_hidden": {"loss": "kl_hidden"},
    "fusion cosine": {"loss": "cosine"},
    "streamline next_token": {"loss": "next_token"},
    "least_squares cosine": {"fit": "cosine", "cosine_batch_size": 4, "cosine_epochs": 1},
    "low_rank learned": {"fit": "learned"},
    "magnitude channel": {"scale": "channel"},
}
RIGID = ("concatenation", "laco", "weighted_sum")  # merges that have no loss


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def padded(length: int, answers: bool = False) -> Masked:
    """Windows of the same tokens, with other padding behind them."""
    ids = tiny.ids(8, 9)
    filled = torch.full((8, length), length % 7 + 3)
    for row, size in enumerate(LENGTHS):
        filled[row, :size] = ids[row, :size]
    counts = (torch.arange(length) % 3 > 0).expand(8, -1) if answers else None
    return Masked.of(filled, LENGTHS, counts)


def recipe_of(recovery: str, metric: str = "block_influence", **more):
    name = recovery.split()[0]
    fields = RECOVERIES[name].schema.model_fields
    settings = {k: v for k, v in (BUDGET | WAYS.get(recovery, {})).items() if k in fields}
    first = {"protect_first": 1}
    return resolve(
        "here",
        {
            "importance": {"metric": metric, **first, **more},
            "recovery": {"method": name, **settings},
            "calibration": {"sequences": 8, "batch_size": 3},
            "finetune": {"sequences": 8},
            "dtype": "float32",
        },
    )


def scores_of(model, recipe, windows):
    scores = [row.score for row in score_step(model, recipe, windows).units]
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("answers", [slow(False), True])
def test_padding_changes_no_score(model, metric, answers):
    recipe = recipe_of("none", metric, **required.METRICS.get(metric, {}))
    short, long = (scores_of(model, recipe, padded(length, answers)) for length in (9, 18))
    assert torch.equal(short, long)


def test_a_score_is_that_of_the_tokens_alone(model):
    recipe = recipe_of("none", "macro_influence")
    mean = torch.zeros(5, dtype=torch.float64)
    for row, size in zip(padded(9), LENGTHS, strict=True):
        mean += size * scores_of(model, recipe, row[None, :size]) / sum(LENGTHS)
    assert torch.allclose(scores_of(model, recipe, padded(9)), mean, atol=1e-6)


@pytest.mark.parametrize(
    "recovery",
    [
        slow(name)
        if name in ("fusion kl_hidden", "fusion cosine", "low_rank learned", "magnitude channel")
        else name
        for name in WAYS
    ],
)
def test_padding_changes_no_weight(model, recovery):
    recipe, found = recipe_of(recovery), []
    for length in (9, 18):
        pruned = copy.deepcopy(model)
        (step,) = prune(pruned, recipe, 1, padded(length), padded(length))
        rows = step.finish.training if step.finish else step.training
        losses = [[row.loss, row.to_json().get("fitted_loss", 0.0)] for row in rows]
        found.append((pruned.module.state_dict(), losses, (step.finish or step).tokens))
    (short, losses, tokens), (long, others, more) = found
    assert tokens == more <= sum(LENGTHS)
    assert torch.allclose(torch.tensor(losses), torch.tensor(others), atol=1e-5)
    assert recovery in RIGID or losses[0] != losses[-1]
    assert all(torch.allclose(short[name], long[name], atol=1e-6) for name in short)


@torch.no_grad()
def test_the_loss_of_a_batch_is_the_mean_over_what_counts(model):
    windows = padded(18, answers=True)
    loss = batch_losses(model, [windows], 3)(0)
    total, count = 0.0, 0
    for ids, size in zip(windows, LENGTHS, strict=True):
        logits = model.module(input_ids=ids[None, :size]).logits[0, :-1].log_softmax(-1)
        places = [place for place in range(1, size) if place % 3 > 0]
        total -= sum(logits[place - 1, ids[place]].item() for place in places)
        count += len(places)
    assert loss.item() == pytest.approx(total / count, abs=1e-5)


def test_padding_has_no_share_in_the_loss_over_the_batch():
    from fusegpt.nn.losses import kl_batch, masked

    student, teacher = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    expected = 0.0
    for place, there in enumerate((3, 2, 1)):
        one = kl_batch(student[:there, place], teacher[:there, place]) if there > 1 else 0.0
        expected += float(one) * there / 3
    student.requires_grad_(True)
    loss = masked("kl_batch")(student, teacher, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert student.grad.isfinite().all() and not student.grad[~mask].any()


def test_a_recovery_that_does_not_say_so_gets_no_masks():
    recipe = SimpleNamespace(method="mine", recovery=RecoverySettings())
    check_masks(recipe, tiny.ids(2, 4))
    with pytest.raises(DataError, match="mine must have windows without masks, got some that end"):
        check_masks(recipe, padded(9))


def test_a_sliced_model_is_that_of_the_tokens_alone(model):
    from fusegpt.data.masked import unpadded
    from fusegpt.slicegpt import WIDTHS
    from fusegpt.slicegpt.settings import SliceGpt

    found = []
    for size in (1, 3):
        pieces = unpadded(padded(18), size)
        sliced, _ = WIDTHS["slicegpt"].load()(
            copy.deepcopy(model), pieces, 0.25, SliceGpt(orientation="pca"), seed=0
        )
        found.append(sliced.module(input_ids=tiny.ids(1, 9)).logits)
    assert torch.allclose(*found, atol=1e-3)
