"""The losses against formulas written out, and the traits of the batch-axis KL."""

import pytest
import torch

from fusegpt.errors import ConfigError
from fusegpt.nn.losses import LOSSES, cosine, huber, kl_batch, kl_hidden, mse, mse_token


@pytest.fixture
def states():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 5, generator=draw, dtype=torch.float64) for _ in range(2)]


def test_kl_batch_is_equation_nine_summed_and_divided_by_the_batch(states):
    student, teacher = states
    p = teacher.exp() / teacher.exp().sum(0, keepdim=True)
    q = student.exp() / student.exp().sum(0, keepdim=True)
    expected = (p * (p / q).log()).sum() / 4
    torch.testing.assert_close(kl_batch(student, teacher), expected)


def test_kl_batch_does_not_see_an_offset_shared_by_the_batch(states):
    student, teacher = states
    offset = 5 * torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(kl_batch(student + offset, teacher), kl_batch(student, teacher))
    assert mse(student + offset, teacher) > 2 * mse(student, teacher)


def test_kl_batch_refuses_one_sequence(states):
    student, teacher = (state[:1] for state in states)
    with pytest.raises(ConfigError, match=r"must hold at least 2 sequences, got 1; Eq\. 7"):
        kl_batch(student, teacher)


def test_kl_hidden_is_the_mean_over_tokens(states):
    student, teacher = states
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(kl_hidden(student, teacher), (p * (p / q).log()).sum(-1).mean())


def test_cosine_and_mse_are_means(states):
    student, teacher = states
    dot = (student * teacher).sum(-1) / student.norm(dim=-1) / teacher.norm(dim=-1)
    torch.testing.assert_close(cosine(student, teacher), 1 - dot.mean())
    torch.testing.assert_close(mse(student, teacher), (student - teacher).square().mean())


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_zero_for_equal_states_and_float32_for_bfloat16(name, states):
    state = states[0].to(torch.bfloat16)
    loss = LOSSES[name](state, state)
    assert loss.dtype == torch.float32
    assert abs(loss.item()) < 1e-6


def test_mse_token_is_relative_to_each_tokens_own_length(states):
    student, teacher = states
    expected = [
        ((s - t).norm() / t.norm()) ** 2
        for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)
    ]
    torch.testing.assert_close(mse_token(student, teacher), torch.stack(expected).mean())


def test_huber_is_squared_below_a_usual_value_and_linear_above_it(states):
    _, teacher = states
    usual = teacher.square().mean(-1).flatten().median().sqrt()
    for size, expected in ((0.5, 0.5**2 / 2), (3.0, 3.0 - 0.5)):
        torch.testing.assert_close(
            huber(teacher + size * usual, teacher), torch.tensor(expected, dtype=torch.float64)
        )


def test_a_massive_token_decides_the_mean_squared_error_alone(states):
    student, teacher = states
    student[0, 0], teacher[0, 0] = 1000 * student[0, 0], 1000 * teacher[0, 0]
    others = {
        loss: loss(student.flatten(0, 1)[None, 1:], teacher.flatten(0, 1)[None, 1:])
        for loss in (mse, mse_token, huber)
    }
    assert mse(student, teacher) > 1e4 * others[mse]
    assert mse_token(student, teacher) < 2 * others[mse_token]
    assert huber(student, teacher) < 1e3 * others[huber]
