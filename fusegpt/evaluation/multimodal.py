"""Questions about images, through lm-eval's ``hf-multimodal`` engine and task files of our own."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jinja2 import TemplateError
from lm_eval import evaluator
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.tasks import TaskManager

from fusegpt.data.processors import load_processor
from fusegpt.errors import ConfigError, DataError, FuseGPTError, first_line, one_line
from fusegpt.evaluation.items import fingerprint, pack
from fusegpt.evaluation.settings import Multimodal
from fusegpt.evaluation.task_files import quiet
from fusegpt.models.model import Model
from fusegpt.registry import lookup
from fusegpt.runtime import dtype_name

__all__ = ["Questions", "multimodal", "plan"]

logger = logging.getLogger(__name__)

TASKS = Path(__file__).parent / "image_tasks"
GROUPS = {"pictures": "kind", "mmmu_val": "type", "cmmmu_val": "type"}
"""Column by whose values a task's rows are also given one by one."""
BEYOND = 1 << 20


@dataclass(frozen=True)
class Questions:
    """A task with its questions read, and how to ask.

    Attributes:
        name: Name of the task file.
        task: lm-eval's object.
        limit: Take the first so many questions; None: all.
        chat: Whether questions go through the processor's chat template.
        directory: Where the processor lies.
        protocol: All that decides the result besides the model.
    """

    name: str
    task: Any
    limit: int | None
    chat: bool
    directory: Path
    protocol: Mapping[str, Any]


def plan(directory: Path, entries: Mapping[str, Any], settings: Multimodal) -> list[Questions]:
    """Read the tasks' questions before any weight is loaded.

    Args:
        directory: The model's directory: config and processor.
        entries: The configuration's ``tasks``: ``{ai2d: {splits: {test: FILE}}}``, a parquet file
            with the images inside; a task without an entry is read from the hub.
        settings: Which tasks, and how their questions are asked.

    Raises:
        ArtifactError: No processor in the directory.
        ConfigError: ``chat_template`` is asked of a processor that has none.
        DataError: The questions are missing.
    """
    processor = load_processor(directory)
    if settings.chat_template:
        _check_template(processor)
    known = {path.stem: path for path in TASKS.glob("*.yaml")}
    return [
        _questions(lookup(known, task, "multimodal task"), entries, directory, settings)
        for task in settings.tasks
    ]


def _questions(
    standard: Path, entries: Mapping[str, Any], directory: Path, settings: Multimodal
) -> Questions:
    task = standard.stem
    splits = (entries.get(task) or {}).get("splits", {})
    if len(splits) > 1:
        raise ConfigError(f"tasks.{task}.splits: must name one file, got {', '.join(splits)}")
    loaded = _load(standard, next(iter(splits.values()), None))
    if settings.max_tokens is not None:
        generation = {"max_gen_toks": settings.max_tokens}
        loaded.set_config("generation_kwargs", generation, update=True)
    documents, limit, chat = loaded.eval_docs, settings.limit, settings.chat_template
    count = min(limit or len(documents), len(documents))
    asked = (json.dumps(_plain(documents[i]), sort_keys=True, default=str) for i in range(count))
    protocol = {
        "harness": f"lm-eval {importlib.metadata.version('lm_eval')} hf-multimodal",
        "version": loaded.config.metadata["version"],
        "limit": None if count == len(documents) else count,
        "chat_template": chat,
        "generation": {k: v for k, v in loaded.config.generation_kwargs.items() if v is not None},
        "items": fingerprint(asked),
    }
    return Questions(task, loaded, limit, chat, directory, protocol)


def multimodal(
    model: Model, plan: Sequence[Questions], *, batch_size: int = 4
) -> list[dict[str, Any]]:
    """Ask a model questions about images and score its answers.

    Paper: Table III (decision D37). Answers are generated greedily.

    Args:
        model: An image-text model in eval mode; unchanged on return.
        plan: From ``plan``.
        batch_size: Questions at once.

    Returns:
        For each task one row over all questions, and one for each kind of question, if it has any.

    Raises:
        ConfigError: The model's positions are too few for a question with its images.
    """
    rows = []
    for questions in plan:
        result = _ask(model, questions, batch_size)
        samples = sorted(result["samples"][questions.name], key=lambda sample: sample["doc_id"])
        rows += _rows(questions, samples, dtype_name(model.dtype))
    for row in rows:
        value, count = row["value"], row["num_samples"]
        logger.info("%s: %s %.4f on %d questions", row["task"], row["metric"], value, count)
    return rows


def _rows(
    questions: Questions, samples: Sequence[Mapping[str, Any]], dtype: str
) -> list[dict[str, Any]]:
    metric = questions.task.config.metric_list[0]["metric"]
    documents, column = questions.task.eval_docs, GROUPS.get(questions.name, "")
    groups: dict[str, list[float]] = {"": []}
    for sample in samples:
        value = float(sample[metric])
        groups[""].append(value)
        if column in documents.column_names:
            groups.setdefault(str(documents[sample["doc_id"]][column]), []).append(value)
    protocol = {**questions.protocol, "dtype": dtype}
    return [_row(questions.name, kind, metric, found, protocol) for kind, found in groups.items()]


def _row(
    task: str, group: str, metric: str, values: Sequence[float], protocol: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "task": f"{task} {group}".strip(),
        "metric": metric,
        "value": sum(values) / len(values),
        "unit": "fraction",
        "higher_is_better": True,
        "num_samples": len(values),
        "protocol": dict(protocol),
        "items": pack(values, f"{protocol['items']} {group}".strip()),
    }


def _ask(model: Model, questions: Questions, batch_size: int) -> Any:
    longest = getattr(model.text_config, "max_position_embeddings", BEYOND)
    name = model.module.name_or_path
    model.module.name_or_path = str(questions.directory)  # where lm-eval looks for the processor
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            harness = HFMultimodalLM(
                pretrained=model.module, batch_size=batch_size, max_length=longest
            )
            return evaluator.evaluate(
                harness,
                {"tasks": {questions.name: questions.task}, "groups": {}},
                limit=questions.limit,
                apply_chat_template=questions.chat,
                bootstrap_iters=0,
            )
    except ValueError as error:
        if "image" not in str(error).lower():
            raise
        raise ConfigError(
            f"{questions.name}: the images do not fit this model ({' '.join(str(error).split())})"
        ) from error
    finally:
        model.module.name_or_path = name


def _load(standard: Path, file: str | None) -> Any:
    """The task of a file of ours, pointed at the data."""
    where = f"tasks.{standard.stem}"
    with tempfile.TemporaryDirectory(prefix="fusegpt-") as folder:
        path = standard
        if file is not None:
            if not Path(file).is_file():
                raise DataError(f"{where}: {file}: no such file")
            path = Path(folder) / standard.name
            content = {"include": str(standard), "dataset_kwargs": {"file": file}}
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        try:
            with quiet():
                manager = TaskManager(include_defaults=False)
                return next(iter(manager.load([str(path)])["tasks"].values()))
        except FuseGPTError as error:
            raise DataError(f"{where}: {error}") from error
        except (LookupError, TypeError) as error:
            raise DataError(f"{where}: the data do not fit the task ({one_line(error)})") from error


def _check_template(processor: Any) -> None:
    """Refuse a template that takes text only, or none."""
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    try:
        processor.apply_chat_template([{"role": "user", "content": content}])
    except (ValueError, TypeError, TemplateError) as error:
        raise ConfigError(
            f"chat_template: the processor has none for images ({first_line(error)});"
            " set it to false"
        ) from error


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """A question without its images."""
    return {name: value for name, value in document.items() if not name.startswith("image")}
