"""Generation: whether a model writes the one right answer to small made-up questions."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusegpt.data.cutting import PADDING
from fusegpt.data.tokens import adds_bos, load_tokenizer
from fusegpt.data.tokens import fingerprint as tokenizer_fingerprint
from fusegpt.data.window_files import check_ids
from fusegpt.errors import ConfigError
from fusegpt.evaluation.items import fingerprint, pack
from fusegpt.evaluation.made_up import questions
from fusegpt.evaluation.settings import Generation
from fusegpt.models.model import Model
from fusegpt.pace import Pace
from fusegpt.runtime import dtype_name

__all__ = ["Asked", "generation", "plan"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """One task's questions as token ids.

    Attributes:
        name: Name of the task.
        rows: Token ids of each question and its answer.
        answers: Number of the last tokens of each row that are the answer.
        protocol: All that decides the result besides the model.
    """

    name: str
    rows: list[list[int]]
    answers: list[int]
    protocol: Mapping[str, Any]


def plan(directory: Path, nothing: Mapping[str, Any], settings: Generation) -> list[Asked]:
    """Make the questions up, before any weight is loaded.

    Args:
        directory: The model's directory: config and tokenizer.
        nothing: Empty; no data are read.
        settings: Which tasks, and how many questions.

    Raises:
        ArtifactError: No tokenizer in the directory.
        ConfigError: A task is named twice.
        DataError: A question is longer than the model's positions.
    """
    tokenizer = load_tokenizer(directory)
    twice = [name for name in settings.tasks if settings.tasks.count(name) > 1]
    if twice:
        raise ConfigError(f"tasks: {twice[0]!r} is there twice")
    opening = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    asked = []
    for name in settings.tasks:
        made = questions(name, settings.items, settings.shots, settings.seed)
        prompts, wholes = (
            [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
            for texts in ([one.prompt for one in made], ["".join(one) for one in made])
        )
        rows = [[*opening, *whole] for whole in wholes]
        sizes = [len(whole) - len(prompt) for whole, prompt in zip(wholes, prompts, strict=True)]
        longest = max(rows, key=len)
        check_ids(directory, torch.tensor([longest]), f"{name} for {directory}")
        protocol = {
            "harness": "greedy answers to made-up questions",
            "shots": settings.shots,
            "seed": settings.seed,
            "items": fingerprint(one.prompt + one.answer for one in made),
            "tokenizer_sha256": tokenizer_fingerprint(tokenizer),
        }
        asked.append(Asked(name, rows, sizes, protocol))
    return asked


def generation(model: Model, plan: Sequence[Asked], *, batch_size: int = 8) -> list[dict[str, Any]]:
    """Measure how often the answer that a model writes greedily is the right one, to its end.

    A greedy answer is right exactly if each of its tokens is the likeliest behind the question and
    the right tokens before it, so one forward pass tells, and nothing is written token by token.
    The share of these tokens that are the likeliest tells apart models that get no answer right.

    Args:
        model: In eval mode; unchanged on return.
        plan: From ``plan``.
        batch_size: Questions at once.

    Returns:
        Two rows for each task, ``exact_match`` and ``token_match``: task, metric, value, unit,
        higher_is_better, num_samples, protocol, items (1 for a right answer; the share of its
        tokens).
    """
    dtype = dtype_name(model.dtype)
    found = []
    for asked in plan:
        shares = _shares(model, asked, batch_size)
        for metric, values in (
            ("exact_match", [float(x == 1) for x in shares]),
            ("token_match", shares),
        ):
            value = math.fsum(values) / len(values)
            found.append(
                {
                    "task": asked.name,
                    "metric": metric,
                    "value": value,
                    "unit": "fraction",
                    "higher_is_better": True,
                    "num_samples": len(values),
                    "protocol": {**asked.protocol, "dtype": dtype},
                    "items": pack(values, asked.protocol["items"]),
                }
            )
            logger.info("%s: %s %.4f on %d questions", asked.name, metric, value, len(values))
    return found


@torch.no_grad()
def _shares(model: Model, asked: Asked, batch_size: int) -> list[float]:
    """Share of each answer's tokens that are the likeliest behind the right ones before them."""
    shares: list[float] = []
    with Pace(asked.name, len(asked.rows), "question") as pace:
        for start in range(0, len(asked.rows), batch_size):
            rows = asked.rows[start : start + batch_size]
            ids = torch.full((len(rows), max(map(len, rows))), PADDING)
            for number, row in enumerate(rows):
                ids[number, : len(row)] = torch.tensor(row)
            inputs = model.inputs(ids)
            likeliest = model.module(**inputs, use_cache=False).logits.argmax(dim=-1).cpu()
            for number, (row, size) in enumerate(zip(rows, asked.answers[start:], strict=False)):
                answer = slice(len(row) - size - 1, len(row) - 1)
                wanted = ids[number, len(row) - size : len(row)]
                shares.append((likeliest[number, answer] == wanted).double().mean().item())
            pace.advance(len(rows))
    return shares
