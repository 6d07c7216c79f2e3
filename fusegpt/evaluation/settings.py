"""Settings of the evaluations, one class each, with what they read of the configuration."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fusegpt.config import LearningRate, NonNegativeInt, PositiveInt, check_gradient_dtype
from fusegpt.errors import ConfigError
from fusegpt.evaluation.task_members import names_below
from fusegpt.evaluation.task_names import known_tasks
from fusegpt.methods import Settings
from fusegpt.registry import suggestion

__all__ = [
    "Classification",
    "EvaluationSettings",
    "Generation",
    "Multimodal",
    "Perplexity",
    "Speed",
    "ZeroShot",
]

FIVE = ("piqa", "winogrande", "hellaswag", "arc_easy", "arc_challenge")
"""The zero-shot tasks of the paper's Table II, in its order."""


def check_task_files(names: Sequence[str], folder: str, where: str, *, paths: bool = True) -> None:
    """Refuse tasks that are no file of a folder of this package, nor any by its path.

    Args:
        names: The tasks.
        folder: Name of the folder.
        where: Begins the message.
        paths: Whether a file may be named by its path.

    Raises:
        ConfigError: The message begins with ``where`` and names the closest.
    """
    known = {path.stem: path for path in (Path(__file__).parent / folder).glob("*.yaml")}
    for name in names:
        is_path = paths and name.endswith(".yaml")
        if is_path and not Path(name).is_file():
            raise ConfigError(f"{where}.tasks: must be a file that is there, got {name!r}")
        if not is_path and name not in known:
            raise ConfigError(f"{where}.tasks: unknown task {name!r}{suggestion(name, known)}")


class EvaluationSettings(Settings):
    """What every evaluation says of itself.

    Attributes:
        reads: Second argument of the planning function: the configuration's ``corpora``, its
            ``tasks``, the places of the model and of the dense model (``models``), or an empty
            table (``nothing``). An evaluation that reads ``models`` is alone in its process and is
            measured anew whenever asked for.
        streams: Whether it also works where weights are read block by block.
        higher_is_better: Whether a higher value is better; None: it measures costs.
        splits: Whether several processes can share it; those in parts share their parts anyway.
    """

    reads: ClassVar[Literal["corpora", "tasks", "models", "nothing"]] = "corpora"
    streams: ClassVar[bool] = False
    higher_is_better: ClassVar[bool | None] = None
    splits: ClassVar[bool] = False

    def corpus_read(self) -> tuple[str, str] | None:
        """Return the corpus that is read, by name or as a file, and its split; None: no corpus."""
        return None

    def tasks_read(self) -> tuple[str, ...]:
        """Return the tasks, or groups of tasks, that are read."""
        return ()

    def tasks_below(self) -> frozenset[str]:
        """Return those, and whatever tasks and groups lie below them under other names."""
        return frozenset(self.tasks_read())

    def check_dtype(self, dtype: str, where: str) -> None:
        """Refuse a type that it cannot compute in; the ConfigError begins with ``where``."""

    def check_tasks(self, where: str) -> None:
        """Refuse tasks that cannot be; the message of the ConfigError begins with ``where``."""


class Perplexity(EvaluationSettings):
    """Perplexity on windows of a corpus: exp of the mean nats per token."""

    streams: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False
    splits: ClassVar[bool] = True
    paper: ClassVar[str] = "FuseGPT, arXiv 2411.14507, Tables I and II; protocol of SparseGPT"

    corpus: str = Field(
        default="wikitext2",
        description="A corpus by name, a text file, or a file of `fusegpt sample`, which is taken"
        " as it is and brings its own split, length and bos.",
    )
    split: str = Field(default="test", description="Split of the corpus.")
    length: PositiveInt = Field(
        default=2048, description="Tokens per window, BOS included; the literature's is 2048."
    )
    windows: PositiveInt | None = Field(
        default=None,
        description="Number of windows, from the first; null: all. The literature takes 256 of C4.",
    )
    bos: Literal["stream", "window", "none"] = Field(
        default="stream",
        description="Where BOS stands: once at the start of the corpus, if the tokenizer adds it,"
        " as in the literature; at the start of every window, as Gemma needs; or nowhere.",
    )
    cut: Literal["consecutive", "documents"] = Field(
        default="consecutive",
        description="How windows are cut: one after the other from the joined documents, or at"
        " random places inside single documents, as GPTQ does on C4, which needs a number of"
        " windows.",
    )

    def corpus_read(self) -> tuple[str, str]:
        """Return the corpus and its split."""
        return self.corpus, self.split


class ZeroShot(EvaluationSettings):
    """Tasks of lm-eval: zero-shot and few-shot choices, knowledge, generation."""

    reads: ClassVar[Literal["tasks"]] = "tasks"
    higher_is_better: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    paper: ClassVar[str] = "FuseGPT, arXiv 2411.14507, Table II; lm-evaluation-harness"

    tasks: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="Tasks, groups or tags of lm-eval; null: the paper's five."
    )
    shots: NonNegativeInt | None = Field(
        default=0,
        description="Number of solved examples before each question; null: the task's own.",
    )
    limit: PositiveInt | None = Field(
        default=None, description="Number of items of each task, from the first; null: all."
    )
    max_tokens: PositiveInt | None = Field(
        default=None, description="Tokens of a generated answer; null: the task's own number."
    )

    def tasks_read(self) -> tuple[str, ...]:
        """Return the tasks asked for, or the paper's five."""
        return FIVE if self.tasks is None else tuple(self.tasks)

    def tasks_below(self) -> frozenset[str]:
        """Return those, and the tasks and groups of lm-eval below them."""
        return frozenset(name for task in self.tasks_read() for name in names_below(task))

    def check_tasks(self, where: str) -> None:
        """Refuse a name that lm-eval does not have, where it is installed."""
        asked = self.tasks or []
        known = known_tasks() if asked else None
        for name in asked:
            if known is not None and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ConfigError(f"{where}.tasks: lm-eval has no task {name!r:.80}{hint}")


class Generation(EvaluationSettings):
    """Greedy answers to small questions that are made up: copying, looking up, sums, brackets."""

    reads: ClassVar[Literal["nothing"]] = "nothing"

    tasks: list[Literal["copying", "looking_up", "adding", "closing"]] = Field(
        default=["copying", "looking_up", "adding", "closing"],
        min_length=1,
        description="What is asked: eight words again; which of four numbers a word was given; sums"
        " of two digits; the brackets that close three open ones.",
    )
    items: PositiveInt = Field(default=200, description="Number of questions of each task.")
    shots: NonNegativeInt = Field(
        default=3, description="Number of solved examples before each question."
    )
    seed: NonNegativeInt = Field(default=0, description="Seed of all questions.")


class Multimodal(EvaluationSettings):
    """Questions about images, answered in words."""

    reads: ClassVar[Literal["tasks"]] = "tasks"
    higher_is_better: ClassVar[bool] = True
    paper: ClassVar[str] = "FuseGPT, arXiv 2411.14507, Table III"

    tasks: list[str] = Field(
        default=["mmmu_val", "cmmmu_val", "gqa", "ai2d", "ok_vqa"],
        min_length=1,
        description="Task files of this package by name.",
    )
    limit: PositiveInt | None = Field(
        default=None, description="Number of questions of each task, from the first; null: all."
    )
    chat_template: bool = Field(
        default=True, description="Ask in the form of a conversation (USER: ... ASSISTANT:)."
    )
    max_tokens: PositiveInt | None = Field(
        default=None, description="Tokens of an answer; null: the task's own number."
    )

    def tasks_read(self) -> tuple[str, ...]:
        """Return the tasks asked for."""
        return tuple(self.tasks)

    def check_tasks(self, where: str) -> None:
        """Refuse a task that is none of this package's."""
        check_task_files(self.tasks, "image_tasks", where, paths=False)


class Classification(EvaluationSettings):
    """Text classification after prompt-based fine-tuning on a few examples."""

    reads: ClassVar[Literal["tasks"]] = "tasks"
    higher_is_better: ClassVar[bool] = True
    paper: ClassVar[str] = "Why Lift so Heavy?, arXiv 2402.11700"

    tasks: list[str] = Field(
        default=["sst2", "ag_news"],
        min_length=1,
        description="Task files of this package by name, or any by its path.",
    )
    shots: PositiveInt = Field(
        default=16,
        description="Number of examples of each class to tune on, and as many to validate on.",
    )
    seed: NonNegativeInt = Field(
        default=0,
        description="Seed of the draw of examples and their order, and of the low-rank factors.",
    )
    tune: Literal["all", "lora"] = Field(
        default="all",
        description="What is tuned: every weight, as published, or a low-rank update of the"
        " blocks' matrices.",
    )
    lora_rank: PositiveInt = Field(default=8, description="Rank of that update.")
    epochs: PositiveInt = Field(default=10, description="Passes over the examples.")
    batch_size: PositiveInt = Field(default=8, description="Examples of one optimiser step.")
    learning_rate: LearningRate = Field(
        default=1e-5, description="Learning rate at the beginning; it falls along a line to zero."
    )
    length: PositiveInt = Field(
        default=128, description="Tokens of a prompt; the end of a longer text is cut off."
    )
    limit: PositiveInt | None = Field(
        default=None, description="Number of test items, from the first; null: all."
    )

    def tasks_read(self) -> tuple[str, ...]:
        """Return the tasks asked for."""
        return tuple(self.tasks)

    def check_dtype(self, dtype: str, where: str) -> None:
        """Refuse a type too narrow for the gradients of the tuning."""
        check_gradient_dtype(dtype, f"{where}.dtype", "classification")

    def check_tasks(self, where: str) -> None:
        """Refuse a task that is neither a file nor one of this package's."""
        check_task_files(self.tasks, "text_tasks", where)

    def tuning(self) -> dict[str, Any]:
        """Return all settings of the tuning that decide its result."""
        rank = {} if self.tune == "all" else {"lora_rank": self.lora_rank}
        return {
            "tune": self.tune,
            **rank,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }


class Speed(EvaluationSettings):
    """Speed and memory of requests, with the dense and the pruned model timed in turn."""

    reads: ClassVar[Literal["models"]] = "models"

    prompt: PositiveInt = Field(default=512, description="Tokens of the prompt.")
    new_tokens: PositiveInt = Field(default=32, description="Tokens decoded after it.")
    batch_sizes: list[PositiveInt] | None = Field(
        default=None, description="Requests at once, one measurement each; null: 1 and 4."
    )
    rounds: PositiveInt = Field(
        default=5,
        description="Number of rounds; each times every model twice, in the order dense, pruned,"
        " pruned, dense.",
    )
