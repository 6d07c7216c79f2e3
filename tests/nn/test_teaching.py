"""The loss of a distillation and the gradient that is written down with it."""

import pytest
import torch

from benchmarks.finish import plain
from fusegpt.nn.teaching import answer, divergence


def test_fewer_tokens_are_one_class_with_the_rest_of_the_mass():
    draw = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(3, 16, generator=draw) for _ in range(2))
    expected, said = (logits.softmax(-1) for logits in (teacher, student))
    top = expected.topk(4, -1).indices
    pairs = [
        torch.cat([p.gather(-1, top), 1 - p.gather(-1, top).sum(-1, keepdim=True)], -1)
        for p in (expected, said)
    ]
    wanted = (pairs[0] * (pairs[0] / pairs[1]).log()).sum(-1)
    torch.testing.assert_close(divergence(student, answer(teacher, 4, 1.0), 1.0), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("top_k", [1, 5, 16])
def test_the_gradient_that_is_written_down_is_that_of_the_formula(top_k, temperature, share, dtype):
    if share and temperature != 1:
        pytest.skip("two distributions of the student: two losses")
    draw = torch.Generator().manual_seed(1)
    teacher, student = (4 * torch.randn(2, 3, 16, generator=draw).to(dtype) for _ in range(2))
    following = torch.randint(16, (2, 3), generator=draw)
    given = answer(teacher, top_k, temperature)
    weights = torch.rand(2, 3, generator=draw)  # of positions, as masks and counts weigh them
    found = []
    for loss_of in (
        lambda x: plain(x, given, temperature, following, share),
        lambda x: divergence(
            x, given, temperature, **({"following": following, "share": share} if share else {})
        ),
    ):
        leaf = student.clone().requires_grad_()
        each = loss_of(leaf)
        (weights * each).sum().backward()
        found.append((each.detach(), leaf.grad))
    (wanted, slope), (value, written) = found
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)
    exact = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.01}
    torch.testing.assert_close(written, slope, **exact)


def test_a_rest_that_has_no_mass_gives_finite_numbers():
    teacher = torch.tensor([[4.0, 3.0, -torch.inf, -torch.inf]])
    for student in ([[1.0, 2.0, 0.0, 0.0]], [[1.0, 2.0, -500.0, -500.0]]):
        leaf = torch.tensor(student, requires_grad=True)
        loss = divergence(leaf, answer(teacher, 2, 1.0), 1.0)
        loss.sum().backward()
        assert loss.isfinite().all() and leaf.grad.isfinite().all()
    wanted = torch.tensor([4.0, 3.0]).log_softmax(0) - torch.tensor([1.0, 2.0]).log_softmax(0)
    assert loss.item() == pytest.approx((wanted * torch.tensor([4.0, 3.0]).softmax(0)).sum().item())
