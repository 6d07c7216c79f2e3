"""Whether a model can be pruned faithfully: the adapter's own checks, run on the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusegpt.data.kinds import pattern_of
from fusegpt.errors import ArchitectureError
from fusegpt.models.blocks import find_blocks
from fusegpt.models.checkpoints.save import differences
from fusegpt.models.checkpoints.storage import source_storage
from fusegpt.models.model import Model
from fusegpt.models.structure.branches import bypass, find_branches
from fusegpt.models.structure.kinds import off_formula, off_scale
from fusegpt.models.structure.replay import head_logits, record, run_blocks
from fusegpt.models.surgery.removal import skip
from fusegpt.models.surgery.round_trip import check_round_trip
from fusegpt.models.surgery.sublayer_removal import last_of_their_kind
from fusegpt.runtime import dtype_name
from fusegpt.units import Unit

__all__ = ["Finding", "check_structure", "check_whole"]

NEW_TOKENS = 8
MOST = 40
CLOSE = 1e-3
"""Greatest difference, relative to the largest logit, of sums in another order."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: The name of the check.
        passed: Whether pruning can go on from here.
        text: What was found, or what does not hold.
    """

    name: str
    passed: bool
    text: str


def check_structure(model: Model) -> Iterator[Finding]:
    """Check what needs no weights; the model may lie on the meta device.

    Yields:
        Blocks, config, removal of each block, weights that fusion pairs; ends early where the
        rest cannot be.
    """
    yield _blocks(model)
    config = _attempt("config", lambda: _config(model))
    yield config
    if config.passed:
        yield _removal(model)
        yield _weights(model)
        yield from (Finding("differs", True, sentence) for sentence in differences(model))
        yield from _runtimes(model)
        yield from _storage(model)


@torch.no_grad()
def check_whole(model: Model, ids: Tensor) -> Iterator[Finding]:
    """Check what a model computes.

    Args:
        model: With its weights; unchanged.
        ids: Random token ids ``[batch, seq]``.

    Yields:
        Replay, removal against bypass, generation with and without a cache; and whether attentions
        and mlps can go too, which is said but nothing that a model must be fit for.
    """
    replayed = _attempt("replay", lambda: _replay(model, ids))
    yield replayed
    if replayed.passed and len(model.kept) > 1:
        unit = _middle(model)
        yield _attempt("bypass", lambda: _bypass(model, ids, unit))
        yield _attempt("generation", lambda: _generation(model, ids[:1], [unit]))
        sublayers = _attempt("sublayers", lambda: _sublayers(model, ids))
        text = sublayers.text if sublayers.passed else f"granularity block only; {sublayers.text}"
        yield Finding("sublayers", True, text)


def _attempt(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except ArchitectureError as error:
        return Finding(name, False, str(error))


def _blocks(model: Model) -> Finding:
    found = find_blocks(model.module)
    kinds = sorted({type(block).__name__ for block in found.blocks})
    place = next(name for name, child in model.module.named_modules() if child is found.blocks)
    return Finding("blocks", True, f"{len(found.blocks)} of {', '.join(kinds)} in {place}")


def _config(model: Model) -> str:
    check_round_trip(model.module)
    return "it alone rebuilds the model"


def _removal(model: Model) -> Finding:
    tried = _spread(model.units()) if len(model.kept) > 1 else []
    refused: dict[int, str] = {}
    for unit in tried:
        try:
            with skip(model, [unit]):
                pass
        except ArchitectureError as error:
            refused[unit.index] = str(error)
    if not refused:
        which = "each block" if len(tried) == len(model.kept) else f"each of {len(tried)} blocks"
        return Finding("removal", True, f"{which} can go, and the config follows")
    first, last = _ends(model.kept, refused)
    if first + last == len(refused) <= len(model.kept) // 4:
        ends = f"protect_first: {first}, protect_last: {last}"
        return Finding("removal", True, f"only with {{{ends}}}; {next(iter(refused.values()))}")
    return Finding("removal", False, next(iter(refused.values())))


def _runtimes(model: Model) -> Iterator[Finding]:
    """Whether other programs would take blocks of a pruned model for another kind."""
    pattern = pattern_of(model.text_config)
    advice = (
        "no setting keeps their kinds; remove blocks at the end (last_blocks)"
        if pattern is None
        else f"set keep_pattern: true, which removes whole periods of {pattern.period} blocks, or"
        " remove blocks at the end (last_blocks)"
    )
    for name in off_formula(model.text_config, range(1, len(model.kept))):
        yield Finding(
            "runtimes",
            True,
            f"{name} of a pruned model may not be what the family's formula gives by block number;"
            " transformers reads the list, but llama.cpp (SmolLM3, Gemma 3) and others may compute"
            f" it, and then run another model; {advice}",
        )
    scale = off_scale(model.text_config)
    if scale is not None:
        yield Finding("runtimes", True, f"of a pruned model: {scale}")


def _storage(model: Model) -> Iterator[Finding]:
    """In which dtypes the weights are stored, if they are here, and what becomes of that."""
    storage = source_storage(model)
    if storage is not None:
        others = sorted({dtype_name(x) for x in storage.floats.values()})
        text = f"weights are stored in {' and '.join(others)}, and so are pruned ones, each in its"
        yield Finding("storage", True, f"{text} own, unless checkpoint_dtype says otherwise")


def _spread(units: list[Unit]) -> list[Unit]:
    """All units, or of many the four at each end and as many others, evenly: each costs a build."""
    if len(units) <= MOST:
        return units
    inner = units[4:-4]
    step = len(inner) / (MOST - 8)
    return units[:4] + [inner[int(place * step)] for place in range(MOST - 8)] + units[-4:]


def _ends(kept: Sequence[int], refused: Mapping[int, str]) -> tuple[int, int]:
    """How many blocks at the beginning and at the end are refused."""
    first = next((n for n, index in enumerate(kept) if index not in refused), len(kept))
    last = next((n for n, index in enumerate(kept[::-1]) if index not in refused), 0)
    return first, last


def _weights(model: Model) -> Finding:
    kinds: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
    for index in model.kept:
        paired = {**model.matrices(index), **model.biases(index)}
        shapes = tuple(sorted((name, tuple(p.shape)) for name, p in paired.items()))
        kinds[shapes] = kinds.get(shapes, 0) + 1
    texts = [
        f"{count} blocks with {len(shapes)} weights ({', '.join(name for name, _ in shapes)})"
        for shapes, count in kinds.items()
    ]
    if not any(kinds):
        return Finding("fusion", False, "no block has a weight that could be fused")
    return Finding("fusion", True, "; ".join(texts))


def _replay(model: Model, ids: Tensor) -> str:
    """Blocks run alone, one after the other, give what the model gives, to the last bit."""
    whole = record(model, ids)
    if not torch.equal(run_blocks(model.blocks, whole.calls, whole.hidden_in), whole.hidden_out):
        raise ArchitectureError("blocks run alone do not give what the model gives")
    logits = model.module(**model.inputs(ids), use_cache=False).logits
    if not torch.equal(head_logits(model, ids, whole.hidden_out), logits):
        raise ArchitectureError("the head run alone does not give the model's logits")
    return "blocks and head run alone give the same bits"


def _bypass(model: Model, ids: Tensor, unit: Unit) -> str:
    whole = record(model, ids, keep_states=True)
    place = model.position(unit.index)
    rest = slice(place + 1, None)
    hidden = run_blocks(model.blocks[rest], whole.calls[rest], whole.states[place])
    bypassed = head_logits(model, ids, hidden)
    with skip(model, [unit]):
        removed = model.module(**model.inputs(ids), use_cache=False).logits
    difference = ((removed - bypassed).abs().max() / bypassed.abs().max()).item()
    if not difference <= CLOSE:
        raise ArchitectureError(
            f"without {unit}: logits must be those of skipping it, differ by {difference:.2g}"
        )
    return f"removing {unit} is skipping it" + (f" (within {difference:.1g})" if difference else "")


def _sublayers(model: Model, ids: Tensor) -> str:
    """Every attention and mlp can be told apart; without some, all is as with them silenced."""
    names: dict[str, dict[str, None]] = {"attention": {}, "mlp": {}}
    for index in model.kept:
        for kind, sublayer in find_branches(model, index).sublayers.items():
            names[kind] |= dict.fromkeys(sublayer.zero)
    middle = model.kept[len(model.kept) // 2]
    units = [Unit("attention", model.kept[0]), Unit("attention", middle), Unit("mlp", middle)]
    units = [unit for unit in units if not last_of_their_kind(model, [unit])]
    with bypass(model, units):
        bypassed = model.module(**model.inputs(ids), use_cache=False).logits
    with skip(model, units):
        removed = model.module(**model.inputs(ids), use_cache=False).logits
    if not torch.equal(bypassed, removed):
        raise ArchitectureError(f"without {_listed(units)}: logits differ from skipping them")
    _generation(model, ids[:1], units)
    found = "; ".join(f"{kind} is {' or '.join(parts)}" for kind, parts in names.items())
    return f"also granularity attention, mlp and mixed; {found}; without {_listed(units)} exact"


def _listed(units: Sequence[Unit]) -> str:
    return ", ".join(map(str, units))


def _generation(model: Model, ids: Tensor, units: Sequence[Unit]) -> str:
    ids = ids.to(model.device)
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    with skip(model, units):
        cached, uncached = (
            model.module.generate(
                ids, attention_mask=torch.ones_like(ids), use_cache=use_cache, **options
            )
            for use_cache in (True, False)
        )
    if not torch.equal(cached, uncached):
        raise ArchitectureError(
            f"without {_listed(units)}: generation with a cache differs from without"
        )
    return f"{NEW_TOKENS} tokens without {_listed(units)}, cached as uncached"


def _middle(model: Model) -> Unit:
    """The remaining unit nearest the middle that can go."""
    order = sorted(
        model.units(), key=lambda unit: abs(2 * model.position(unit.index) - len(model.kept))
    )
    for unit in order:
        try:
            with skip(model, [unit]):
                return unit
        except ArchitectureError:
            continue
    raise ArchitectureError("no block can go")
