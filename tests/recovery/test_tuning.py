"""Group tuning against an independent implementation, and what it must leave alone."""

import copy
import math

import pytest
import torch

from fusegpt.errors import DataError, NumericsError
from fusegpt.models.structure.replay import record
from fusegpt.models.surgery.removal import remove
from fusegpt.nn.losses import LOSSES
from fusegpt.recovery.finetune import finetune
from fusegpt.recovery.fusion import fusion
from fusegpt.recovery.resume import Checkpoint
from fusegpt.recovery.settings.group import Finetune, Fusion
from fusegpt.results.unfinished import read_unfinished
from fusegpt.runtime import generator
from fusegpt.units import Unit
from tests import tiny
from tests.quick import slow
from tests.recovery.dying import Dying, Killed

UNIT = Unit("block", 2)
BUDGET = {"group_size": 3, "lora_rank": 4, "epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
FUSION = {**BUDGET, "rank": 5, "coefficient_learning_rate": 3e-2}
EXACT = {"trainable_dtype": "float64"}


@pytest.fixture
def windows():
    return tiny.ids(8, 10, seed=3)


def weights(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


class AutogradFusedLinear(torch.nn.Module):
    """W + B·A + (Ca·Cb) ⊙ W_p in every forward pass, gradients by autograd."""

    def __init__(self, weight, bias, donor, donor_bias, factors):
        super().__init__()
        self.weight, self.bias, self.donor, self.donor_bias = weight, bias, donor, donor_bias
        self.base = torch.nn.ParameterList(factors[:2])
        self.coefficients = torch.nn.ParameterList(factors[2:])
        if bias is not None:
            self.base.append(torch.nn.Parameter(torch.zeros_like(bias)))
            self.coefficients.append(torch.nn.Parameter(torch.zeros_like(bias)))

    def fused(self):
        left, right, ca, cb = *self.base[:2], *self.coefficients[:2]
        weight = self.weight + left @ right + (ca @ cb) * self.donor
        if self.bias is None:
            return weight, None
        return weight, self.bias + self.base[2] + self.coefficients[2] * self.donor_bias

    def forward(self, hidden):
        return torch.nn.functional.linear(hidden, *self.fused())


def independent_fusion(model, windows, start):
    """Table of the expected weights: fuse block 2 into 0, 1, 3 by plain autograd in float64."""
    teacher = copy.deepcopy(model)
    batches = windows.split(4)
    with torch.no_grad():
        seen = [record(teacher, batch, 0, 3) for batch in batches]
    donor = dict(teacher.block(2).named_modules())
    blocks = [copy.deepcopy(teacher.block(index)) for index in (0, 1, 3)]
    linears = {}
    for index, block in zip((0, 1, 3), blocks, strict=True):
        for name, module in list(block.named_modules()):
            if not isinstance(module, torch.nn.Linear):
                continue
            factors = [torch.nn.Parameter(f) for f in start(f"blocks.{index}.{name}.weight")]
            bias = None if module.bias is None else module.bias.detach()
            donor_bias = None if bias is None else donor[name].bias.detach()
            fused = AutogradFusedLinear(
                module.weight.detach(), bias, donor[name].weight.detach(), donor_bias, factors
            )
            parent, _, child = name.rpartition(".")
            setattr(block.get_submodule(parent), child, fused)
            linears[f"blocks.{index}.{name}"] = fused
    base = [p for fused in linears.values() for p in fused.base]
    coefficients = [p for fused in linears.values() for p in fused.coefficients]
    optimizer = torch.optim.Adam(
        [{"params": base, "lr": 1e-2}, {"params": coefficients, "lr": 3e-2}], betas=(0.9, 0.95)
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / 4)) / 2
    )
    losses = []
    for _ in range(2):
        for recording in seen:
            hidden = recording.hidden_in
            for block, call in zip(blocks, [recording.calls[i] for i in (0, 1, 3)], strict=True):
                hidden = call.run(block, hidden)
            loss = torch.nn.functional.kl_div(
                torch.log_softmax(hidden, 0),
                torch.softmax(recording.hidden_out, 0),
                reduction="batchmean",
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return {name: fused.fused() for name, fused in linears.items()}, losses


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_fusion_equals_an_independent_autograd_implementation_in_float64(family, windows):
    model = tiny.model(family, dtype=torch.float64)
    reference = copy.deepcopy(model)
    for index in range(6):  # biases of new models are zero, which would prove nothing
        for bias in [*model.biases(index).values(), *reference.biases(index).values()]:
            bias.data.copy_(torch.linspace(-1, 1, bias.numel()) * (index + 1) / 6)
    probe = copy.deepcopy(model)
    kept = Fusion(fold="at_end", **FUSION).model_copy(update=EXACT)
    fusion(probe, UNIT, windows, kept, seed=0)

    def start(name):
        out, width = probe.fused[name].base.shape
        bound = 1 / math.sqrt(width)
        factors = []
        for kind, rank in (("update", 4), ("coefficients", 5)):
            right = torch.empty(rank, width).uniform_(
                -bound, bound, generator=generator(0, 0, name, kind)
            )
            factors += [torch.zeros(out, rank, dtype=torch.float64), right.double()]
        return factors

    expected, losses = independent_fusion(reference, windows, start)
    report = fusion(model, UNIT, windows, Fusion(**FUSION).model_copy(update=EXACT), seed=0)
    assert [row["loss"] for row in report.rows] == pytest.approx(losses, rel=1e-9)
    for name, (weight, bias) in expected.items():
        found = model.parameter(f"{name}.weight")
        torch.testing.assert_close(found, weight, rtol=1e-9, atol=1e-11)
        if bias is not None:
            torch.testing.assert_close(model.parameter(f"{name}.bias"), bias, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("recover", [finetune, fusion])
def test_training_starts_from_plain_removal_and_lowers_the_loss(recover, windows):
    settings = Fusion(**FUSION) if recover is fusion else Finetune(**BUDGET)
    model = tiny.model("llama")
    plain = copy.deepcopy(model)
    report = recover(model, UNIT, windows, settings.model_copy(update={"epochs": 6}), seed=0)
    remove(plain, UNIT)
    rates = {"learning_rate": 1e-30, "coefficient_learning_rate": 1e-30}
    first = settings.model_copy(update={"epochs": 1, **rates})
    still = tiny.model("llama")
    start = recover(still, UNIT, windows, first, seed=0)
    assert report.rows[0]["loss"] == start.rows[0]["loss"]
    for name, value in still.module.state_dict().items():
        torch.testing.assert_close(value, plain.module.state_dict()[name], rtol=0, atol=1e-20)
    assert report.rows[-1]["loss"] < 0.9 * report.rows[0]["loss"]


@pytest.mark.parametrize("recover", [finetune, fusion])
def test_only_the_groups_matrices_change(recover, windows):
    model = tiny.model("llama")
    plain = tiny.model("llama")
    remove(plain, UNIT)
    settings = Fusion(**FUSION) if recover is fusion else Finetune(**BUDGET)
    report = recover(model, UNIT, windows, settings, seed=0)
    assert report.group == [0, 1, 3]
    for index in model.kept:
        for name, parameter in model.block(index).named_parameters():
            same = torch.equal(parameter, plain.block(index).get_parameter(name))
            tuned = index in report.group and parameter.dim() >= 2
            assert same != tuned, (index, name)
    outside = [n for n in plain.module.state_dict() if ".layers." not in n]
    after, before = model.module.state_dict(), plain.module.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in outside)
    assert not any(p.requires_grad for p in model.module.parameters())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(windows):
    runs = []
    for seed in (0, 0, 1):
        model = tiny.model("llama")
        fusion(model, UNIT, windows, Fusion(**FUSION), seed=seed)
        runs.append(weights(model))
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])
    assert not all(torch.equal(runs[0][n], runs[2][n]) for n in runs[0])


@pytest.mark.parametrize(
    "stop, shuffle",
    [
        (2, False),
        (5, True),
        *(slow(n, False) for n in (0, 1, 5)),
        *(slow(n, True) for n in (0, 1, 2)),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(stop, shuffle, windows, tmp_path):
    settings = {**FUSION, "epochs": 4, "shuffle": shuffle}
    whole = tiny.model("llama")
    expected = fusion(whole, UNIT, windows, Fusion(**settings), seed=0)

    file = tmp_path / "resume.safetensors"
    with pytest.raises(Killed):
        dying = Dying(file, step=stop + 1)
        dying.before = 100.0
        fusion(tiny.model("llama"), UNIT, windows, Fusion(**settings), seed=0, checkpoint=dying)
    left = read_unfinished(file)
    assert (len(left.rows), left.steps) == (stop + 1, len(expected.rows))
    resumed, checkpoint = tiny.model("llama"), Checkpoint(file, "x")
    report = fusion(resumed, UNIT, windows, Fusion(**settings), seed=0, checkpoint=checkpoint)
    assert report.rows == expected.rows
    assert 100 < checkpoint.before < 200  # what the killed run took, and what it went on with
    assert all(torch.equal(v, weights(resumed)[n]) for n, v in weights(whole).items())


def test_a_checkpoint_of_other_settings_is_ignored(windows, tmp_path):
    file = tmp_path / "resume.safetensors"
    other = {**FUSION, "learning_rate": 0.5}
    checkpoint = Checkpoint(file, "other", every_seconds=0)
    fusion(tiny.model("llama"), UNIT, windows, Fusion(**other), seed=0, checkpoint=checkpoint)
    expected, found = tiny.model("llama"), tiny.model("llama")
    fusion(expected, UNIT, windows, Fusion(**FUSION), seed=0)
    fusion(found, UNIT, windows, Fusion(**FUSION), seed=0, checkpoint=Checkpoint(file, "mine"))
    assert all(torch.equal(v, weights(found)[n]) for n, v in weights(expected).items())


def test_a_loss_that_becomes_nan_stops_with_the_step(windows):
    model = tiny.model("llama")
    settings = {**FUSION, "learning_rate": 1e30, "coefficient_learning_rate": 1e30}
    with pytest.raises(NumericsError, match=r"fusion of block 2 .*: loss is .* at step \d"):
        fusion(model, UNIT, windows, Fusion(**settings), seed=0)


def test_too_few_windows_for_a_batch_are_refused(windows):
    with pytest.raises(DataError, match="3 sequences do not fill one batch of 4"):
        fusion(tiny.model("llama"), UNIT, windows[:3], Fusion(**FUSION), seed=0)


@pytest.mark.parametrize(
    "donor, loss",
    [
        (donor, loss) if donor == "removed" or loss == "mse" else slow(donor, loss)
        for donor in ("removed", "self", "shuffled", "random")
        for loss in LOSSES
    ],
)
def test_every_donor_and_loss_trains(donor, loss, windows):
    model = tiny.model("llama")
    report = fusion(
        model,
        UNIT,
        windows,
        Fusion(**{**FUSION, "donor": donor, "loss": loss, "epochs": 4}),
        seed=0,
    )
    assert report.rows[-1]["loss"] < report.rows[0]["loss"]


def test_the_original_teacher_is_the_dense_model(windows, tiny_llama_dir):
    from fusegpt.models.checkpoints.load import load

    settings = {**FUSION, "teacher": "original", "batch_size": 4}
    model = load(tiny_llama_dir, dtype="float32")
    first = fusion(model, UNIT, windows, Fusion(**settings), seed=0)
    current = load(tiny_llama_dir, dtype="float32")
    same = fusion(current, UNIT, windows, Fusion(**{**settings, "teacher": "current"}), seed=0)
    assert first.rows == same.rows  # nothing was removed before: both teachers are dense
    second = fusion(model, Unit("block", 3), windows, Fusion(**settings), seed=0)
    other = fusion(
        current, Unit("block", 3), windows, Fusion(**{**settings, "teacher": "current"}), seed=0
    )
    assert second.rows[0]["loss"] != other.rows[0]["loss"]
