"""Perplexity on consecutive windows of a corpus, the protocol of this literature."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fusegpt import parallel
from fusegpt.data.corpora import load_text
from fusegpt.data.directories import text_config
from fusegpt.data.masked import Masked
from fusegpt.data.tokens import encode, fingerprint, load_tokenizer, window_start
from fusegpt.data.window_files import check_ids, windows_for
from fusegpt.data.windows import consecutive, is_windows_file, read_meta
from fusegpt.errors import ArchitectureError, ConfigError, DataError, NumericsError
from fusegpt.evaluation.cuts import inside_documents
from fusegpt.evaluation.items import fingerprint as items_fingerprint
from fusegpt.evaluation.items import pack
from fusegpt.evaluation.memory import give_back, out_of_memory
from fusegpt.evaluation.settings import Perplexity
from fusegpt.models.model import Model
from fusegpt.models.structure.replay import head_logits, record
from fusegpt.models.structure.visits import recordings
from fusegpt.pace import Pace
from fusegpt.runtime import dtype_name

__all__ = ["Plan", "perplexity", "plan", "rows_of", "window_losses"]

logger = logging.getLogger(__name__)

LOGITS_AT_ONCE = 1 << 25
"""Logits that exist at one time, 128 MiB in float32; a window of 2048 has up to ten times more."""


@dataclass(frozen=True)
class Plan:
    """The windows that perplexity is measured on.

    Attributes:
        ids: ``[windows, length]`` int64 on the CPU.
        protocol: All that decides the number besides the model: corpus, split, length, ...
    """

    ids: Tensor
    protocol: Mapping[str, Any]


def plan(directory: Path, corpora: Mapping[str, Any], settings: Perplexity) -> Plan:
    """Cut a corpus into the windows perplexity is measured on, before any weight is loaded.

    The documents are joined, tokenised at once and cut into consecutive windows that do not
    overlap; the remainder is dropped. Or, with ``cut`` "documents", windows are drawn at random
    places inside single documents, as GPTQ does on C4.

    Args:
        directory: The model's directory: config and tokenizer.
        corpora: The configuration's ``corpora``.
        settings: Which corpus, and how it is cut.

    Raises:
        ConfigError: The window is longer than the model's positions, the tokenizer has no BOS, or
            no number of windows is given for ``cut`` "documents".
        DataError: The text is shorter than the windows asked for, or tokens of another tokenizer.
        ArtifactError: No tokenizer or no config in the directory.
    """
    corpus, length, bos = settings.corpus, settings.length, settings.bos
    if is_windows_file(Path(corpus)):
        return _from_file(directory, Path(corpus), settings)
    _check_length(directory, length)
    tokenizer = load_tokenizer(directory)
    text = load_text(corpus, settings.split, corpora)
    start = window_start(tokenizer, bos)
    inner, documents = length - len(start), settings.cut == "documents"
    if documents:
        ids, tokens = inside_documents(tokenizer, text, inner, settings.windows, bos)
    else:
        stream = encode(tokenizer, text.text, bos=bos == "stream")
        ids, tokens = consecutive(stream, inner, settings.windows), len(stream)
    ids = np.insert(ids, [0] * len(start), start, axis=1)
    protocol = {
        **text.notes(tokens),
        "cut": "one document each, random, seed 0" if documents else settings.cut,
        "length": length,
        "windows": len(ids),
        "bos": bos,
        "tokenizer_sha256": fingerprint(tokenizer),
    }
    windows = torch.from_numpy(ids.astype(np.int64))
    check_ids(directory, windows, f"{corpus} for {directory}")
    return Plan(windows, protocol)


def perplexity(model: Model, windows: Plan, *, batch_size: int = 4) -> list[dict[str, Any]]:
    """Measure exp of the mean nats per token.

    A window's loss L_w is the mean cross-entropy of its length - 1 targets, and
    ppl = exp(sum_w(L_w * length) / (n * length)) over n windows of equal length.
    Paper: Tables I and II; protocol of SparseGPT, Wanda and SLEB.

    Args:
        model: In eval mode; unchanged on return.
        windows: From ``plan``.
        batch_size: Windows at once to begin with; halved by itself when memory runs out. It does
            not change the result beyond rounding.

    Returns:
        One row: task, metric, value, unit, higher_is_better, num_samples, protocol, items (the
        windows' losses).

    Raises:
        NumericsError: A window's loss is NaN or infinite (the message names the window), or the
            mean is too large for exp.
        ConfigError: Not even one window fits into memory.
    """
    count = len(windows.ids)
    own = windows.ids[parallel.own(count, batch_size)]  # whole batches: the same bits
    losses = parallel.gathered(window_losses(model, own, batch_size=batch_size), count, batch_size)
    return rows_of(losses, windows, dtype_name(model.dtype))


def rows_of(losses: Tensor, windows: Plan, dtype: str) -> list[dict[str, Any]]:
    """Return the row of a perplexity.

    Args:
        losses: Mean nats per target of each window, ``[windows]`` float64 on the CPU.
        windows: From ``plan``.
        dtype: Type of the weights, for the protocol.

    Raises:
        NumericsError: A window's loss is NaN or infinite, or the mean is too large for exp.
    """
    bad = (~losses.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise NumericsError(
            f"perplexity: loss of window {bad[0]} is {losses[bad[0]].item()};"
            f" {len(bad)} of {len(losses)} windows are not finite"
        )
    nats = math.fsum(losses.tolist()) / len(losses)  # windows are equally long: length cancels
    if nats > 700:
        raise NumericsError(f"perplexity: the mean loss is {nats:.1f} nats, too large for exp")
    row = {
        "task": windows.protocol.get("corpus", "windows"),
        "metric": "perplexity",
        "value": math.exp(nats),
        "unit": "exp(nats/token)",
        "higher_is_better": False,
        "num_samples": len(losses),
        "protocol": {**windows.protocol, "dtype": dtype},
        "items": pack(losses.tolist(), _items(windows.ids), statistic="exp_mean"),
    }
    logger.info("perplexity %s: %.4f on %d windows", row["task"], row["value"], len(losses))
    return [row]


@torch.no_grad()
def window_losses(model: Model, ids: Tensor, *, batch_size: int = 4) -> Tensor:
    """Mean cross-entropy of each window, in nats per target.

    Args:
        model: In eval mode; unchanged on return.
        ids: ``[windows, length]`` int64, length at least 2.
        batch_size: Windows at once to begin with; halved when memory runs out.

    Returns:
        ``[windows]`` float64 on the CPU.

    Raises:
        ConfigError: Not even one window fits into memory.
    """
    assert ids.shape[1] >= 2, "one token is no target"
    if not len(ids):  # more processes than batches
        return torch.zeros(0, dtype=torch.float64)
    if model.streamed is not None:
        batches = ids.split(batch_size)
        seen = zip(batches, recordings(model, batches), strict=True)
        return torch.cat([_batch_losses(model, batch, each.hidden_out) for batch, each in seen])
    losses: list[Tensor] = []
    with Pace("perplexity", len(ids), "window") as pace:
        while len(losses) < len(ids):
            batch = ids[len(losses) : len(losses) + batch_size]
            result = _try_batch(model, batch)
            if result is not None:
                losses.extend(result)
                pace.advance(len(batch))
            elif len(batch) == 1:
                raise ConfigError(
                    f"length: a window of {ids.shape[1]} tokens does not fit into the memory of"
                    f" {model.device}; lower the length"
                )
            else:
                batch_size = len(batch) // 2
                logger.info("perplexity: out of memory, going on with %d windows", batch_size)
    return torch.stack(losses)


def _try_batch(model: Model, batch: Tensor) -> Tensor | None:
    """Losses of a batch of windows ``[batch]``, or None when memory ran out."""
    try:
        return _batch_losses(model, batch, _last_states(model, batch))
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not out_of_memory(error):
            raise
    give_back(model.device)
    return None


def _last_states(model: Model, batch: Tensor) -> Tensor | None:
    """What leaves the last block ``[batch, seq, hidden]``; None: it is no whole story."""
    try:
        return record(model, batch).hidden_out
    except ArchitectureError:
        return None


def _batch_losses(model: Model, batch: Tensor, hidden: Tensor | None) -> Tensor:
    targets = batch[:, 1:].to(model.device)
    total = torch.zeros(len(batch), dtype=torch.float64, device=model.device)
    for start, logits in _logit_chunks(model, batch, hidden):
        wanted = targets[:, start : start + logits.shape[1]]
        logits = logits[:, : wanted.shape[1]].float()
        nats = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        del logits  # before the next ones are made
        total += nats.double().view_as(wanted).sum(dim=1)  # [batch]
    return total.cpu() / targets.shape[1]


def _logit_chunks(
    model: Model, batch: Tensor, hidden: Tensor | None
) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(start, logits [batch, chunk, vocab])``; a window's logits never exist whole.

    Everything after the last block works on each position alone, so the head runs on slices.
    """
    if hidden is None:
        yield 0, model.module(**model.inputs(batch), use_cache=False).logits
        return
    chunk = max(2, LOGITS_AT_ONCE // (len(batch) * model.text_config.vocab_size))
    for start in range(0, batch.shape[1] - 1, chunk):
        piece = slice(start, start + chunk)
        yield start, head_logits(model, batch[:, piece], hidden[:, piece])


def _items(ids: Tensor) -> str:
    return items_fingerprint(window.numpy().tobytes().hex() for window in ids)


def _from_file(directory: Path, path: Path, settings: Perplexity) -> Plan:
    ids, meta = windows_for(directory, path), read_meta(path)
    limit, length = settings.windows, ids.shape[1]
    _check_length(directory, length)
    if settings.length not in (length, Perplexity().length):
        raise ConfigError(
            f"length: must be {length}, that of the windows in {path}, or left out, got"
            f" {settings.length}"
        )
    if isinstance(ids, Masked):
        raise DataError(
            f"{path}: perplexity must have windows without padding of which all tokens count, got"
            " some with masks; sample them with cut 'joined' and predict 'all'"
        )
    if limit is not None and limit > len(ids):
        raise DataError(f"{path}: {limit} windows asked, {len(ids)} there; lower the windows")
    ids = ids[:limit]
    left_out = ("provenance", "sequences")
    protocol = {key: value for key, value in meta.to_json().items() if key not in left_out}
    if not protocol:  # of something else than ``fusegpt sample``
        protocol = {"corpus": path.name, "length": length}
    cut = "as they are" if meta.seed is None else f"random, seed {meta.seed}"
    bos = protocol.get("bos", "stream")
    return Plan(ids, {**protocol, "cut": cut, "windows": len(ids), "bos": bos})


def _check_length(directory: Path, length: int) -> None:
    longest = getattr(text_config(directory), "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(f"length: must be at most {longest}, the model's positions, got {length}")
    if length < 2:
        raise ConfigError(f"length: must be at least 2, got {length}; one token is no target")
