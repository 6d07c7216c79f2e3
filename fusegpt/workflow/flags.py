"""What the rules put on the command lines of their verbs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fusegpt.workflow.dense_scores import DenseScores
from fusegpt.workflow.exported import all_exports, shown_with_exports
from fusegpt.workflow.generated import located
from fusegpt.workflow.plan import Plan
from fusegpt.workflow.together import Together, settings_of
from fusegpt.workflow.until import Chains, not_there

__all__ = [
    "Flags",
    "answers_flag",
    "dense_flag",
    "dense_model_flags",
    "directory_of",
    "finetune_flag",
    "selection_flags",
    "with_each",
]


class Flags:
    """Settings of a verb for a rule's wildcards; each method is a function of ``params``.

    Attributes:
        plan: Everything that is to be computed.
        dense_scores: Scores of dense models by id, each with a recipe that needs them.
        chains: Chains that an evaluation ends.
        exports: Names of exports in paths, each as it is written on a command line.
    """

    def __init__(
        self,
        plan: Plan,
        dense_scores: dict[str, tuple[DenseScores, str, int]],
        chains: Chains | None = None,
    ) -> None:
        self.plan = plan
        self.dense_scores = dense_scores
        self.chains = chains or Chains(plan, not_there())
        self.exports = {found.target.name: found.target.text for found in all_exports(plan)}

    def source(self, wildcards: Any) -> str:
        """Where a model comes from."""
        return self.plan.models[wildcards.model].source

    def model_settings(self, wildcards: Any) -> str:
        """The rest of a model's entry."""
        return json.dumps(self.plan.models[wildcards.model].fetch_settings())

    def trust(self, wildcards: Any) -> list[str]:
        """``--trust-remote-code`` for a model whose entry says so; nothing otherwise."""
        trusted = self.plan.models[wildcards.model].trust_remote_code
        return ["--trust-remote-code"] if trusted else []

    def export(self, wildcards: Any) -> str:
        """What a model is exported to."""
        return self.exports[wildcards.export]

    def num_blocks(self, wildcards: Any) -> int:
        """How many blocks the configuration says a model has."""
        return self.plan.models[wildcards.model].num_blocks

    def recipe(self, wildcards: Any) -> str:
        """A recipe with every default filled in."""
        return json.dumps(self.plan.recipes[wildcards.recipe].to_json())

    def dense_recipe(self, wildcards: Any) -> str:
        """How a dense model is scored: a recipe with every default filled in."""
        return json.dumps(self.dense_scores[wildcards.scores][0].recipe.to_json())

    def dense_count(self, wildcards: Any) -> int:
        """Blocks that a contiguous selection takes at once."""
        return self.dense_scores[wildcards.scores][0].count

    def answers(self, wildcards: Any) -> list[str]:
        """How a teacher answers."""
        answers = self.plan.answers[wildcards.answers]
        top_k = "all" if answers.top_k is None else str(answers.top_k)
        flags = ["--top-k", top_k, "--temperature", str(answers.temperature)]
        return [*flags, "--dtype", answers.dtype]

    def trust_teacher(self, wildcards: Any) -> list[str]:
        """``--trust-remote-code`` for a teacher whose entry says so; nothing otherwise."""
        name = self.plan.answers[wildcards.answers].teacher or wildcards.model
        return ["--trust-remote-code"] if self.plan.models[name].trust_remote_code else []

    def windows(self, wildcards: Any) -> list[str]:
        """Which windows to sample."""
        windows = self.plan.windows[wildcards.windows]
        flags = {
            "--corpus": windows.corpus,
            "--split": windows.split,
            "--length": windows.length,
            "--seed": windows.seed,
            "--corpora": json.dumps(located(windows.corpora, wildcards.model)),
        }
        if windows.rows is None:
            flags["--sequences"] = windows.sequences
        else:
            flags["--rows"] = windows.rows
        flags |= {f"--{name}": value for name, value in windows.more.items()}
        return [str(part) for pair in flags.items() for part in pair]

    def generated(self, wildcards: Any) -> list[str]:
        """What a model writes itself."""
        written = self.plan.written[wildcards.generated]
        settings, corpora = written.settings.model_dump(), written.corpora
        return ["--settings", json.dumps(settings), "--corpora", json.dumps(corpora)]

    def settings_of_set(self, evaluations: Together) -> list[Callable[[Any], str]]:
        """A parameter for each evaluation, so that Snakemake says which one changed."""
        return [
            functools.partial(_as_it_is, f"{name}={json.dumps(settings_of(self.plan, name))}")
            for name in evaluations.evaluations
        ]

    def evaluations(self, wildcards: Any, output: Sequence[str]) -> list[str]:
        """``--evaluation NAME=SETTINGS --output FILE`` for each result."""
        flags = []
        for file in output:
            name = Path(file).stem
            settings = json.dumps(settings_of(self.plan, name))
            flags += ["--evaluation", f"{name}={settings}", "--output", file]
        return flags

    def contents(self, wildcards: Any) -> str:
        """Models, recipes, sparsities and evaluations of a table; nothing while chains go on."""
        if self.chains.waiting(wildcards.experiment):
            return "not known yet"
        known = shown_with_exports(self.chains.known(), wildcards.experiment)
        return json.dumps(known.to_json())


def _as_it_is(value: str, wildcards: Any) -> str:
    """Snakemake looks for wildcards in a text, but not in what a function returns."""
    return value


def selection_flags(wildcards: Any, input: Any) -> list[str]:
    """``--first-scores FILE``, or ``--part FILE`` for each part of the scores, or nothing."""
    return ["--first-scores", *input.first] if input.first else _parts(input)


def dense_model_flags(wildcards: Any, input: Any) -> list[str]:
    """The directory of the model that is scored, and ``--part FILE`` for each part."""
    return [model_directory(wildcards, input), *_parts(input)]


def _parts(input: Any) -> list[str]:
    return [word for file in input.parts for word in ("--part", file)]


def finetune_flag(wildcards: Any, input: Any) -> list[str]:
    """``--finetune FILE``, or nothing."""
    return ["--finetune", *input.finetune] if input.finetune else []


def answers_flag(wildcards: Any, input: Any) -> list[str]:
    """``--answers FILE``, or nothing."""
    return ["--answers", *input.answers] if input.answers else []


def dense_flag(wildcards: Any, input: Any) -> list[str]:
    """``--dense DIRECTORY``, or nothing."""
    return ["--dense", str(Path(input.dense[0]).parent)] if input.dense else []


def directory_of(wildcards: Any, output: Sequence[str]) -> str:
    """The directory of a rule's first output."""
    return str(Path(output[0]).parent)


def model_directory(wildcards: Any, input: Any) -> str:
    """The directory of a model whose last file is the input."""
    return str(Path(input.model).parent)


def with_each(flag: str, name: str) -> Callable[[Any, Any], list[str]]:
    """Return a function of ``params``: the flag before each file of a named input."""

    def flags(wildcards: Any, input: Any) -> list[str]:
        return [part for file in getattr(input, name) for part in (flag, file)]

    return flags
