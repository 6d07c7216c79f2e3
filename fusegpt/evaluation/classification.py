"""Text classification after prompt-based fine-tuning on a few examples."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fusegpt.config import LearningRate, NonNegativeInt, PositiveInt
from fusegpt.data.directories import text_config
from fusegpt.data.tokens import fingerprint as tokenizer_fingerprint
from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ConfigError
from fusegpt.evaluation.items import fingerprint, pack
from fusegpt.evaluation.prompt_tuning import Tuning, predictions, tuned
from fusegpt.evaluation.prompts import Prompts, Verbaliser
from fusegpt.evaluation.summary import Summary
from fusegpt.evaluation.text_data import Texts, TextTask, draw, read_task, read_texts
from fusegpt.models.model import Model

__all__ = ["Part", "Plan", "classification", "plan"]

logger = logging.getLogger(__name__)

HARNESS = "prompt-based fine-tuning"


@dataclass(frozen=True)
class Part:
    """One task, its prompts ready.

    Attributes:
        name: Of the task file.
        words: The token that stands for each class.
        examples: To tune on.
        validation: To choose the epoch by.
        test: To measure on.
        tuning: How to tune.
        identity: All that decides the result besides the model.
    """

    name: str
    words: Sequence[int]
    examples: Prompts
    validation: Prompts
    test: Prompts
    tuning: Tuning
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """Tasks to measure one by one, and how their results become rows."""

    parts: list[Part]
    summary: Summary

    def rows(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A row per task, with what chance and the most frequent class reach, and the mean."""
        rows = self.summary.rows(results)
        for row, result in zip(rows, results.values(), strict=False):
            row |= result["about"]
            row["note"] = f"chance {row['chance']:.3f}, majority {row['majority']:.3f}"
        return rows


def plan(
    directory: Path,
    entries: Mapping[str, Any],
    *,
    tasks: list[str] = ["sst2", "ag_news"],  # noqa: B006
    shots: PositiveInt = 16,
    seed: NonNegativeInt = 0,
    tune: Literal["all", "lora"] = "all",
    lora_rank: PositiveInt = 8,
    epochs: PositiveInt = 10,
    batch_size: PositiveInt = 8,
    learning_rate: LearningRate = 1e-5,
    length: PositiveInt = 128,
    limit: PositiveInt | None = None,
) -> Plan:
    """Read the tasks, draw their examples and make prompts of them, before any weight is loaded.

    Args:
        directory: The model's directory: config and tokenizer.
        entries: The config's ``tasks``: where a task's ``train`` and ``test`` files are.
        tasks: Task files of ours by name, or any by its path.
        shots: Examples of each class to tune on, and as many others to validate on.
        seed: Of the draw of examples and their order, and of the low-rank factors.
        tune: Every weight, as published, or a low-rank update (``lora``) of the blocks' matrices.
        lora_rank: Of that update.
        epochs: Passes over the examples.
        batch_size: Examples of one optimiser step.
        learning_rate: At the beginning; it falls along a line to zero.
        length: Tokens of a prompt; the end of a longer text is cut off.
        limit: Measure the first so many test items; None: all.

    Raises:
        ArtifactError: No tokenizer in the directory.
        ConfigError: An unknown task, one that is named twice, or prompts too long for the model.
        DataError: Files, columns or labels are not as the task says, a class has too few examples,
            or this tokenizer cannot tell two label words apart.
    """
    longest = getattr(text_config(directory), "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(f"length: must be at most {longest}, the model's positions, got {length}")
    tokenizer = load_tokenizer(directory)
    tuning = Tuning(tune, lora_rank, epochs, batch_size, learning_rate, seed)
    parts: dict[str, Part] = {}
    for given in tasks:
        name, task = read_task(given)
        if name in parts:
            raise ConfigError(f"tasks: {name!r} is there twice")
        texts = read_texts(name, task, entries.get(name))
        chosen = _choose(name, task, texts, shots, seed, limit)
        verbaliser = Verbaliser(tokenizer, task, f"tasks.{name}")
        examples, validation, test = (verbaliser.prompts(part, length) for part in chosen)
        protocol = {
            **_protocol(task, chosen, tuning, shots, length),
            "tokenizer_sha256": tokenizer_fingerprint(tokenizer),
            "limit": None if len(chosen[2].texts) == len(texts["test"].texts) else limit,
        }
        words = verbaliser.tokens
        parts[name] = Part(name, words, examples, validation, test, tuning, protocol)
    summary = Summary({name: [name] for name in parts}, {name: {} for name in parts}, limit)
    return Plan(list(parts.values()), summary)


def classification(model: Model, part: Part, *, batch_size: int = 16) -> dict[str, Any]:
    """Tune a model on a few prompts, and measure how often it prefers the right label word.

    The class of a text is the one whose word has the highest logit after the prompt; tuning
    minimises the cross-entropy over the label words alone. The epoch with the best accuracy on the
    validation examples is kept, the lower loss deciding ties.
    Source: Yuan et al., "Why Lift so Heavy?", arXiv 2402.11700 (decision D39).

    Args:
        model: In eval mode; tuned in memory and bit-unchanged on return.
        part: Of a plan.
        batch_size: Prompts that are measured at once; it does not change the result beyond
            rounding.

    Returns:
        As of ``zero_shot``; and ``about``: chance, majority, validation accuracy, the epoch that
        was kept, and the losses of the first and the last epoch.

    Raises:
        NumericsError: A loss is NaN or infinite.
    """
    with tuned(model, part.words, part.examples, part.validation, part.tuning, part.name) as found:
        guesses = predictions(model, part.words, part.test, batch_size)
    right = (guesses == part.test.classes).double().tolist()
    count, value = len(right), math.fsum(right) / len(right)
    sizes = Counter(part.test.classes.tolist())
    spread = math.sqrt(value * (1 - value) / (count - 1)) if count > 1 else None
    about = {"chance": 1 / len(part.words), "majority": max(sizes.values()) / count, **found}
    logger.info(
        "%s: chance %.3f, majority %.3f; validation %.3f at epoch %d of %d",
        *(part.name, about["chance"], about["majority"]),
        *(found["validation"], found["epoch"], part.tuning.epochs),
    )
    dtype = str(model.dtype).removeprefix("torch.")
    return {
        "num_samples": count,
        "items": part.identity["items"],
        "protocol": {**part.identity, "dtype": dtype},
        "metrics": {
            "accuracy": {
                "value": value,
                "stderr": spread,
                "higher_is_better": True,
                "values": pack(right, "")["values"],
            }
        },
        "about": about,
    }


def _choose(
    name: str, task: TextTask, texts: Mapping[str, Texts], shots: int, seed: int, limit: int | None
) -> tuple[Texts, Texts, Texts]:
    test = texts["test"]
    measured = test.take(range(min(limit or len(test.texts), len(test.texts))))
    avoid = set(test.texts)
    examples, validation = draw(texts["train"], task, shots, seed, avoid, f"tasks.{name}")
    return examples, validation, measured


def _protocol(
    task: TextTask, chosen: Sequence[Texts], tuning: Tuning, shots: int, length: int
) -> dict[str, Any]:
    examples, validation, test = (
        fingerprint(f"{number} {text}" for number, text in zip(x.classes, x.texts, strict=True))
        for x in chosen
    )
    return {
        "harness": HARNESS,
        "shots": shots,
        "tuning": tuning.to_json(),
        "length": length,
        "template": task.template,
        "words": list(task.words.values()),
        "items": test,
        "examples": examples,
        "validation": validation,
    }
