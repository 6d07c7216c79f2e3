"""The losses against formulas written out, and the traits of the batch-axis KL."""

import pytest
import torch

from fusegpt.errors import ConfigError
from fusegpt.nn.losses import LOSSES, cosine, kl_batch, kl_hidden, mse


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
