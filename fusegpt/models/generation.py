"""Text that a model writes itself: seeded, in batches, and it goes on where a kill left it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from fusegpt.artifacts import STAGE_VERSION
from fusegpt.data.cutting import PADDING
from fusegpt.data.directories import file_marks, generation_settings, text_config
from fusegpt.data.generated import Generated
from fusegpt.data.masked import Masked
from fusegpt.data.rewriting import accepted
from fusegpt.data.starts import Start, starts_of
from fusegpt.data.tokens import fingerprint, load_tokenizer
from fusegpt.data.window_files import check_ids, write_windows
from fusegpt.data.windows import draw
from fusegpt.errors import NumericsError, Stopped
from fusegpt.models.checkpoints.load import load
from fusegpt.models.model import Model
from fusegpt.models.vllm_writer import vllm_writer
from fusegpt.models.written import Written
from fusegpt.pace import Pace
from fusegpt.provenance import provenance
from fusegpt.results import layout
from fusegpt.runtime import Timer, peak_memory_gib
from fusegpt.signals import asked_to_stop, saving_first

__all__ = ["generate"]

logger = logging.getLogger(__name__)


def generate(
    model: str | Path,
    settings: Generated = Generated(),
    *,
    corpora: Mapping[str, Any] | None = None,
    output: str | Path,
    device: str = "cpu",
) -> Tensor:
    """Let a model write texts, and keep them as windows of token ids.

    By transformers' own generation, or by vLLM. Each text draws from numbers of its own, so it is
    the same whichever others are written beside it, but for rounding. After every batch what is
    written so far is kept beside the output; a killed run goes on from there.

    Args:
        model: The model's directory.
        settings: What texts start from, how many there are, and how they are drawn.
        corpora: The configuration's ``corpora``.
        output: The parquet file to write, for ``fusegpt sample`` and whatever takes windows.
        device: Where to work; vLLM finds its place itself.

    Returns:
        ``[sequences, length]`` int64 on the CPU. Answers come with masks for the padding and for
        the tokens that the model wrote.

    Raises:
        ArtifactError: The directory holds no model or no tokenizer.
        ConfigError: vLLM is asked for and not installed, or there is no such device.
        DataError: The corpus is not there, too short, or no file of conversations.
        NumericsError: The model's scores are NaN or infinite, or the temperature makes them so.
    """
    directory, output = Path(model), Path(output)
    tokenizer = load_tokenizer(directory)
    starts = starts_of(tokenizer, settings, corpora or {})
    longest = _check(directory, settings, starts, output)
    ends = _ends(directory, tokenizer) if settings.start == "prompts" else []
    kept = Written(layout.unfinished(output), _names(settings, starts, directory))
    rows = kept.read()
    pace = Pace("writing", len(starts), "text", done=len(rows))
    with Timer() as timer, saving_first(), pace:
        write = _writer(directory, settings, longest, ends, device)
        while len(rows) < len(starts):
            batch = range(len(rows), min(len(rows) + settings.batch_size, len(starts)))
            begun = [starts[number] for number in batch]
            rows += _taken(write(begun, batch), settings, begun, ends, tokenizer)
            kept.write(rows)
            pace.advance(len(batch))
            if (number := asked_to_stop()) is not None and len(rows) < len(starts):
                raise Stopped(number, f"saved {len(rows)} texts in {kept.path}; run again to go on")
    windows = _windows(rows, starts, settings)
    meta = {
        "corpus": "generated",
        "generated": settings.model_dump(),
        "sequences": len(rows),
        "tokens": sum(map(len, rows)),
        "length": windows.shape[1],
        "seed": settings.seed,
        **_notes(rows, starts, settings),
        "tokenizer_sha256": fingerprint(tokenizer),
        "provenance": provenance(device),
        "seconds": round(timer.seconds, 3),
        "memory_gib": round(peak_memory_gib(), 3),
    }
    write_windows(output, windows, meta)
    kept.path.unlink(missing_ok=True)
    return windows


def _ends(directory: Path, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: as the model's files say, else its tokenizer; or none."""
    said = generation_settings(directory)
    if said is None:
        ends = getattr(text_config(directory), "eos_token_id", None)
    else:
        ends = said.get("eos_token_id")
    ends = tokenizer.eos_token_id if ends is None else ends
    return [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]


def _writer(
    directory: Path, settings: Generated, longest: int, ends: list[int], device: str
) -> Callable[[Sequence[Start], Sequence[int]], list[list[int]]]:
    """What writes a batch of texts: transformers, whose draws are ours, or vLLM."""
    if settings.engine == "vllm":
        return vllm_writer(directory, settings, longest, ends)
    model = load(directory, dtype=settings.dtype, device=device)
    model.module.generation_config = GenerationConfig(
        do_sample=False,  # the only score that is left is a draw
        eos_token_id=ends or None,
        pad_token_id=PADDING,
        use_cache=True,
    )
    return partial(_write, model, settings)


class _Draws(LogitsProcessor):  # type: ignore[misc]
    """Leaves each text one token, drawn from the model's distribution by a number of its own."""

    def __init__(self, settings: Generated, numbers: Sequence[int]) -> None:
        self.settings, self.numbers = settings, numbers
        self.most = TopPLogitsWarper(settings.top_p) if settings.top_p < 1 else None
        seeds = [draw(settings.seed, number) % 2**63 for number in numbers]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return ``[texts, vocab]`` scores: 0 for the token that is drawn, -inf for the others.

        Raises:
            NumericsError: A text's next token has no probabilities to be drawn by.
        """
        scores = scores.float() / self.settings.temperature
        if self.most is not None:
            scores = self.most(input_ids, scores)
        numbers = [torch.rand((), generator=g, dtype=torch.float64) for g in self.generators]
        drawn = _token_at(scores, torch.stack(numbers).to(scores.device))
        _check_drawn(drawn, scores, self.settings, self.numbers)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)


def _check_drawn(
    drawn: Tensor, scores: Tensor, settings: Generated, numbers: Sequence[int]
) -> None:
    """Refuse ``[texts, vocab]`` scores from which nothing was drawn: NaN, +inf, or -inf alone."""
    if bad := (drawn < 0).nonzero().flatten().tolist():
        best = scores[bad[0]].amax().item()  # NaN where there is one
        raise NumericsError(
            f"text {numbers[bad[0]]}: scores of its next token must be finite, got {best} in"
            f" {settings.dtype} at temperature {settings.temperature:g};"
            " take another dtype, or a higher temperature"
        )


def _token_at(scores: Tensor, numbers: Tensor) -> Tensor:
    """The first token of each row up to which the probabilities sum to more than its number.

    One number for each token, where noise on every score would take one for each word of the
    vocabulary, all of them drawn on the CPU (decision D63).

    Args:
        scores: ``[texts, vocab]`` float32.
        numbers: ``[texts]`` float64 in [0, 1).

    Returns:
        ``[texts]`` int64, none of them a token without probability; -1 where the scores are no
        distribution.
    """
    summed = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    total = summed[:, -1]  # 1 but for rounding; NaN where the scores are no distribution
    found = torch.searchsorted(summed, (numbers * total)[:, None], right=True)[:, 0]
    return found.masked_fill(total.isnan(), -1)


def _check(directory: Path, settings: Generated, starts: Sequence[Start], output: Path) -> int:
    """Refuse token ids and lengths that the model has not; return the most tokens it will see."""
    longest = max(len(one.prompt) - len(one.ids) for one in starts) + settings.length
    most = max(max(one.prompt) for one in starts)
    check_ids(directory, torch.full((1, longest), most), str(output))
    return longest


def _taken(
    made: Sequence[list[int]],
    settings: Generated,
    starts: Sequence[Start],
    ends: Sequence[int],
    tokenizer: Any,
) -> list[list[int]]:
    """One batch of texts, with the original answer where the rewritten one is not taken."""
    found = []
    for start, new in zip(starts, made, strict=True):
        last = next((place + 1 for place, one in enumerate(new) if one in ends), len(new))
        own = new[: min(last, settings.length - len(start.ids))]
        if start.answer is not None:
            ended = own[-1] in ends
            if not accepted(tokenizer, settings.accept, own, start.answer, ended=ended):
                own = start.answer
        found.append([*start.ids, *own])
    return found


@torch.no_grad()
def _write(
    model: Model, settings: Generated, starts: Sequence[Start], numbers: Sequence[int]
) -> list[list[int]]:
    """What the model writes to each of a batch; behind an end there may be more."""
    prompts = [start.prompt for start in starts]
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), PADDING)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    made: list[list[int]] = model.module.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=settings.length - min(len(start.ids) for start in starts),
        logits_processor=LogitsProcessorList([_Draws(settings, numbers)]),
    )[:, longest:].tolist()
    return made


def _notes(
    rows: Sequence[list[int]], starts: Sequence[Start], settings: Generated
) -> dict[str, int]:
    """How many answers are not the original ones, where answers are rewritten."""
    if not settings.rewrite:
        return {}
    same = [row == [*one.ids, *(one.answer or [])] for row, one in zip(rows, starts, strict=True)]
    logger.info(
        "%d of %d answers rewritten, the others are the original ones", same.count(False), len(same)
    )
    return {"rewritten": same.count(False)}


def _windows(rows: Sequence[list[int]], starts: Sequence[Start], settings: Generated) -> Tensor:
    """The texts, padded where they are answers."""
    lengths = [len(row) for row in rows]
    ids = torch.full((len(rows), max(lengths)), PADDING)
    answers = torch.zeros(ids.shape, dtype=torch.bool)
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        answers[number, len(start.ids) : len(row)] = True
    return Masked.of(ids, lengths, answers) if settings.start == "prompts" else ids


def _names(settings: Generated, starts: Sequence[Start], directory: Path) -> str:
    """Everything that unfinished texts depend on."""
    begun = [vars(start) for start in starts]
    content = json.dumps(
        [STAGE_VERSION["generate"], settings.model_dump(), begun, file_marks(directory)]
    )
    return hashlib.sha256(content.encode()).hexdigest()
