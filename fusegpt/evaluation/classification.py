"""Text classification after prompt-based fine-tuning on a few examples."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.data.directories import text_config
from fusegpt.data.tokens import fingerprint as tokenizer_fingerprint
from fusegpt.data.tokens import load_tokenizer
from fusegpt.errors import ConfigError
from fusegpt.evaluation.items import fingerprint, pack
from fusegpt.evaluation.prompt_tuning import predictions, tuned
from fusegpt.evaluation.prompts import Prompts, Verbaliser
from fusegpt.evaluation.settings import Classification
from fusegpt.evaluation.summary import Summary
from fusegpt.evaluation.text_data import Texts, TextTask, draw, read_task, read_texts
from fusegpt.models.model import Model
from fusegpt.runtime import dtype_name

__all__ = ["Part", "Plan", "classification", "plan"]

logger = logging.getLogger(__name__)

HARNESS = "prompt-based fine-tuning"


@dataclass(frozen=True)
class Part:
    """One task, its prompts ready.

    Attributes:
        name: Name of the task file.
        words: The token that stands for each class.
        examples: Prompts to tune on.
        validation: Prompts to choose the epoch by.
        test: Prompts to measure on.
        settings: How the model is tuned.
        identity: All that decides the result besides the model.
    """

    name: str
    words: Sequence[int]
    examples: Prompts
    validation: Prompts
    test: Prompts
    settings: Classification
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


def plan(directory: Path, entries: Mapping[str, Any], settings: Classification) -> Plan:
    """Read the tasks, draw their examples and make prompts of them, before any weight is loaded.

    Args:
        directory: The model's directory: config and tokenizer.
        entries: The configuration's ``tasks``: where a task's ``train`` and ``test`` files are.
        settings: Which tasks, how many examples, and how the model is tuned on them.

    Raises:
        ArtifactError: No tokenizer in the directory.
        ConfigError: An unknown task, one that is named twice, or prompts too long for the model.
        DataError: Files, columns or labels are not as the task says, a class has too few examples,
            or this tokenizer cannot tell two label words apart.
    """
    length, limit = settings.length, settings.limit
    longest = getattr(text_config(directory), "max_position_embeddings", None)
    if longest is not None and length > longest:
        raise ConfigError(f"length: must be at most {longest}, the model's positions, got {length}")
    tokenizer = load_tokenizer(directory)
    parts: dict[str, Part] = {}
    for given in settings.tasks:
        name, task = read_task(given)
        if name in parts:
            raise ConfigError(f"tasks: {name!r} is there twice")
        texts = read_texts(name, task, entries.get(name))
        chosen = _choose(name, task, texts, settings)
        verbaliser = Verbaliser(tokenizer, task, f"tasks.{name}")
        examples, validation, test = (verbaliser.prompts(part, length) for part in chosen)
        protocol = {
            **_protocol(task, chosen, settings),
            "tokenizer_sha256": tokenizer_fingerprint(tokenizer),
            "limit": None if len(chosen[2].texts) == len(texts["test"].texts) else limit,
        }
        words = verbaliser.tokens
        parts[name] = Part(name, words, examples, validation, test, settings, protocol)
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
        part: A part of a plan.
        batch_size: Prompts that are measured at once; it does not change the result beyond
            rounding.

    Returns:
        The keys of ``zero_shot``'s result; and ``about``: chance, majority, validation accuracy,
        the epoch that was kept, and the losses of the first and the last epoch.

    Raises:
        NumericsError: A loss is NaN or infinite.
    """
    with tuned(
        model, part.words, part.examples, part.validation, part.settings, part.name
    ) as found:
        guesses = predictions(model, part.words, part.test, batch_size)
    right = (guesses == part.test.classes).double().tolist()
    count, value = len(right), math.fsum(right) / len(right)
    sizes = Counter(part.test.classes.tolist())
    spread = math.sqrt(value * (1 - value) / (count - 1)) if count > 1 else None
    about = {"chance": 1 / len(part.words), "majority": max(sizes.values()) / count, **found}
    logger.info(
        "%s: chance %.3f, majority %.3f; validation %.3f at epoch %d of %d",
        *(part.name, about["chance"], about["majority"]),
        *(found["validation"], found["epoch"], part.settings.epochs),
    )
    dtype = dtype_name(model.dtype)
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
    name: str, task: TextTask, texts: Mapping[str, Texts], settings: Classification
) -> tuple[Texts, Texts, Texts]:
    test, shots, seed = texts["test"], settings.shots, settings.seed
    measured = test.take(range(min(settings.limit or len(test.texts), len(test.texts))))
    avoid = set(test.texts)
    examples, validation = draw(texts["train"], task, shots, seed, avoid, f"tasks.{name}")
    return examples, validation, measured


def _protocol(task: TextTask, chosen: Sequence[Texts], settings: Classification) -> dict[str, Any]:
    examples, validation, test = (
        fingerprint(f"{number} {text}" for number, text in zip(x.classes, x.texts, strict=True))
        for x in chosen
    )
    return {
        "harness": HARNESS,
        "shots": settings.shots,
        "tuning": settings.tuning(),
        "length": settings.length,
        "template": task.template,
        "words": list(task.words.values()),
        "items": test,
        "examples": examples,
        "validation": validation,
    }
