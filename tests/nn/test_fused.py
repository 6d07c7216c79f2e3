"""The fused weight: what it equals at the start, what it folds to, and its gradients."""

import pytest
import torch

from fusegpt.nn.fused import FusedWeight

SHAPES = [(6, 4), (3, 6, 4), (5,)]


def weight(shape, *, donors=2, update_rank=3, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    fused = FusedWeight(
        torch.randn(shape, generator=draw, dtype=dtype),
        update_rank=update_rank,
        dtype=dtype,
        generator=draw,
    )
    for key in range(donors):
        donor = torch.randn(shape, generator=draw, dtype=dtype)
        fused.add_donor(str(key), donor, rank=2, generator=draw)
    return fused


def stir(fused, seed=1):
    draw = torch.Generator().manual_seed(seed)
    for parameter in fused.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)


def by_autograd(fused):
    """W + B·A + Σ (Ca·Cb) ⊙ W_k, written out, with gradients."""

    def term(module):
        factors = list(module.parameters())
        return factors[0] @ factors[1] if len(factors) == 2 else factors[0]

    total = fused.base + (term(fused.update) if fused.update is not None else 0)
    for key, coefficient in fused.coefficients.items():
        total = total + term(coefficient) * fused.donors[key]
    return total


@pytest.mark.parametrize("shape", SHAPES)
def test_fused_weight_equals_the_base_at_the_start(shape):
    fused = weight(shape)
    assert torch.equal(fused.form(), fused.base)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("update_rank", [0, 3])
def test_form_is_equation_ten(shape, update_rank):
    fused = weight(shape, update_rank=update_rank)
    stir(fused)
    torch.testing.assert_close(fused.form(), by_autograd(fused).detach())


@pytest.mark.parametrize("shape", SHAPES)
def test_pulled_gradients_equal_autograd(shape):
    fused = weight(shape)
    stir(fused)
    upstream = torch.randn(shape, dtype=torch.float64)
    expected = torch.autograd.grad(by_autograd(fused), list(fused.parameters()), upstream)
    fused.pull(upstream)
    for parameter, gradient in zip(fused.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)


def test_fold_returns_the_dtype_of_the_base_and_computes_in_float32():
    fused = weight((6, 4), dtype=torch.bfloat16)
    stir(fused)
    assert fused.fold().dtype == torch.bfloat16
    assert fused.form().dtype == torch.float32


def test_base_and_donors_are_never_written():
    fused = weight((6, 4))
    base, donor = fused.base.clone(), fused.donors["0"].clone()
    stir(fused)
    fused.form()
    fused.pull(torch.ones(6, 4, dtype=torch.float64))
    assert torch.equal(fused.base, base)
    assert torch.equal(fused.donors["0"], donor)


@pytest.mark.parametrize("shape", SHAPES)
def test_state_goes_there_and_back(shape):
    fused = weight(shape)
    stir(fused)
    again = FusedWeight.from_state(fused.base, fused.state(), fused.donors)
    assert torch.equal(again.form(), fused.form())
    assert list(again.coefficients) == list(fused.coefficients)


def test_the_kaiming_factor_is_uniform_within_one_over_root_fan_in():
    right = weight((64, 100), update_rank=32).update.right
    assert right.abs().max() <= 0.1
    assert right.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)
