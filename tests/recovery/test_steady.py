"""What keeps a tuning steady: warm-up, clipping, the best state, further attempts, a record."""

import pytest
import torch

from fusegpt.errors import NumericsError
from fusegpt.recovery import fit
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.group import Fusion
from fusegpt.recovery.training import BETAS, Schedule, cosine_factor, train
from fusegpt.units import Unit
from tests import tiny
from tests.recovery.dying import Dying, Killed

UNIT = Unit("block", 2)
STEADY = {"rank": 5, "lora_rank": 4, "group_size": 3, "epochs": 3, "batch_size": 4, "loss": "mse"}
GOOD = {"learning_rate": 1e-2, "coefficient_learning_rate": 3e-2}
WILD = {"learning_rate": 0.2, "coefficient_learning_rate": 0.2}
WINDOWS = tiny.ids(8, 10, seed=3)


def fused(checkpoint=None, **settings):
    model = tiny.model("llama")
    chosen = Fusion(**{**STEADY, **GOOD, **settings})
    report = fusion(model, UNIT, WINDOWS, chosen, seed=0, checkpoint=checkpoint)
    return report, {name: value.clone() for name, value in model.module.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_rates_rise_along_a_line_and_then_fall_along_a_cosine():
    schedule = Schedule(epochs=2, num_batches=5, warmup=0.25)  # 2.5 steps, so 3
    factors = [schedule.factor(step) for step in range(10)]
    assert factors[:4] == [1 / 3, 2 / 3, 1, 1]
    assert factors[3:] == [cosine_factor(step, 7) for step in range(7)]
    steady = Schedule(epochs=2, num_batches=5, warmup_steps=2, decay="constant")
    assert [steady.factor(step) for step in range(10)] == [0.5, *[1.0] * 9]
    plain = Schedule(epochs=2, num_batches=5)
    assert [plain.factor(step) for step in range(10)] == [cosine_factor(s, 10) for s in range(10)]


@pytest.mark.parametrize(("slope", "limit", "taken"), [(30, 2, 2), (0.5, 2, 0.5), (30, 0, 30)])
def test_gradients_longer_than_the_limit_are_shortened_to_it(slope, limit, taken):
    class Spy(Checkpoint):
        def save_when_due(self, optimizer, rows, steps, now):
            (state,) = optimizer.state.values()
            self.first = state["exp_avg"].item() / (1 - BETAS[0])

    weight, spy = torch.nn.Parameter(torch.zeros(1)), Spy("absent.safetensors", "x")
    train(
        [([weight], 1e-3)],
        lambda number: (slope * weight).sum(),
        Schedule(epochs=1, num_batches=2),
        clip_norm=limit,
        checkpoint=spy,
    )
    assert spy.first == pytest.approx(taken, rel=1e-4)


def test_settings_at_their_defaults_change_no_bit():
    spelled = {"warmup": 0.0, "clip_norm": 0.0, "keep": "last", "retries": 0}
    assert same(fused()[1], fused(**spelled)[1])


@pytest.mark.parametrize("settings", [{"warmup": 0.5}, {"clip_norm": 1e-3}])
def test_each_remedy_changes_the_training(settings):
    assert not same(fused()[1], fused(**settings)[1])


def test_the_best_epoch_is_kept_where_a_later_one_is_worse(monkeypatch):
    """The loss is made to rise after the second epoch, as far as its total tells."""
    totals = iter([9.0, 5.0, 3.0, 7.0, 3.0])  # before; three epochs; of what was put back
    states = []

    def total(self):
        states.append([parameter.detach().clone() for parameter in self._parameters(_all)])
        return next(totals)

    _all = torch.nn.Module.parameters
    monkeypatch.setattr(fit._Training, "total", total)
    report, _ = fused(keep="best")
    assert not report.undone
    before, first, second, third, kept = states
    assert all(map(torch.equal, kept, second))
    assert not any(all(map(torch.equal, second, other)) for other in (before, first, third))


def test_a_best_state_survives_a_kill(tmp_path, monkeypatch):
    settings = {"keep": "best", "learning_rate": 0.3, "coefficient_learning_rate": 0.3}
    expected = fused(**settings)
    file = tmp_path / "resume.safetensors"
    with pytest.raises(Killed):  # in the third epoch of two batches
        fused(Dying(file, step=5), **settings)
    found = fused(Checkpoint(file, "x"), **settings)
    assert found[0].rows == expected[0].rows
    assert same(found[1], expected[1])


def test_an_undone_training_is_said_and_leaves_the_plain_removal():
    report, weights = fused(**WILD)
    still, plain = fused(learning_rate=1e-30, coefficient_learning_rate=1e-30)
    assert report.undone and report.mishaps == {"undone": True}
    assert not still.undone and still.mishaps == {}
    assert same(weights, plain)


def test_a_further_attempt_halves_the_rates_until_the_loss_ends_lower(caplog):
    report, weights = fused(retries=4, **WILD)
    assert not report.undone and report.attempts > 1
    half = 0.2 * 0.5 ** (report.attempts - 1)
    alone, expected = fused(learning_rate=half, coefficient_learning_rate=half)
    assert report.rows == alone.rows and same(weights, expected)
    assert report.optimizer_steps == report.attempts * alone.optimizer_steps
    assert report.tokens == report.attempts * alone.tokens
    assert "tried again with half the rates" in caplog.text


def test_attempts_that_all_fail_are_undone():
    report, weights = fused(retries=1, **dict.fromkeys(WILD, 30.0))
    assert report.mishaps == {"undone": True, "attempts": 2}
    assert same(weights, fused(**WILD)[1])


def test_a_loss_that_becomes_nan_is_tried_again_and_the_last_attempt_says_so():
    explosive = {"learning_rate": 1e20, "coefficient_learning_rate": 1e20, "retries": 1}
    with pytest.raises(NumericsError, match=r"loss is (nan|inf) at step"):
        fused(**explosive)


def test_a_kill_in_a_further_attempt_ends_with_the_same_bits(tmp_path):
    expected = fused(retries=4, **WILD)
    file = tmp_path / "resume.safetensors"
    with pytest.raises(Killed):
        fused(Dying(file, attempt=1), retries=4, **WILD)
    resumed = Checkpoint(file, "x")
    assert resumed.reached() == 1
    found = fused(resumed, retries=4, **WILD)
    assert found[0] == expected[0]
    assert same(found[1], expected[1])
