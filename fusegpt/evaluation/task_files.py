"""Standard tasks of lm-eval, found by name and pointed at other data without copying them."""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError
from lm_eval.tasks import TaskManager

from fusegpt.data.hub import offline_reason
from fusegpt.errors import ConfigError, DataError, FuseGPTError, first_line
from fusegpt.evaluation.task_data import check_files
from fusegpt.evaluation.task_index import Entry, entry_of
from fusegpt.evaluation.task_names import known_tasks

__all__ = ["aggregates", "leaves", "load_task", "quiet", "task_file"]

SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
ADVICE = "point it at a file below tasks: in a configuration file"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's log to errors, and its progress bars to a terminal."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.ExitStack() as stack:
            if not sys.stderr.isatty():
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def leaves(name: str, above: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """The tasks below a name of lm-eval: of a group or a tag its members, of a task itself.

    Args:
        name: The name.
        above: Names of groups that led to it, the nearest one first.

    Returns:
        Each task with itself and the names that led to it, the nearest one first.

    Raises:
        ConfigError: lm-eval has no such name, or a group that changes its members.
    """
    entry = _entry(name)
    if entry is None:
        close = difflib.get_close_matches(name, known_tasks() or (), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"tasks: lm-eval has no task {name!r}{hint}")
    path = (name, *above)
    if entry.kind.name == "TAG":
        return {task: (task, *path) for task in sorted(entry.tags)}
    if entry.kind.name != "GROUP":
        return {name: path}
    members = (entry.cfg or {})["task"]
    if isinstance(members, str):
        members = [members]
    if not all(isinstance(member, str) for member in members):
        raise ConfigError(f"tasks: group {name!r} changes its members; name its tasks instead")
    return {leaf: led for member in members for leaf, led in leaves(member, path).items()}


def aggregates(name: str) -> dict[str, bool]:
    """Metrics that a group averages over its tasks, and whether by items (else by tasks).

    Empty for a task, a tag, and a group that only lists its members.
    """
    cfg = _known(name).cfg or {}
    listed = cfg.get("aggregate_metric_list") or []
    listed = listed if isinstance(listed, list) else [listed]
    return {entry["metric"]: bool(entry.get("weight_by_size", True)) for entry in listed}


def load_task(leaf: str, entry: Mapping[str, Any] | None, *, shots: int | None) -> Any:
    """Build a task with its data, from an entry of the config's ``tasks`` or from the hub.

    Args:
        leaf: A name of lm-eval.
        entry: ``{"splits": {split: file}, "package": ..., "select": ...}``, or None: the hub.
        shots: Examples before each question; None: the task's own number.

    Raises:
        DataError: The data are missing or do not fit the task, or the hub cannot be reached.
    """
    if entry is None:
        task = _from_hub(leaf)
    else:
        with tempfile.TemporaryDirectory(prefix="fusegpt-") as folder:
            task = _from_file(leaf, task_file(leaf, entry, Path(folder), shots=shots))
    own = task.config.num_fewshot
    task.set_config("num_fewshot", (own or 0) if shots is None else shots)
    task.set_fewshot_seed(1234)
    return task


def task_file(
    leaf: str, entry: Mapping[str, Any], folder: Path, *, shots: int | None = None
) -> Path:
    """Write a task file that includes the standard one and reads other data.

    ``lm_eval --include_path FOLDER`` takes it as well.

    Raises:
        DataError: A file is missing, or the split that the task needs.
    """
    standard = _known(leaf)
    where, cfg = f"tasks.{leaf}", standard.cfg or {}
    if standard.kind.name != "TASK" or standard.yaml_path is None:
        raise DataError(f"{where}: a task written in Python reads its own data")
    check_files(entry, cfg.get("dataset_name"), where)
    splits = entry["splits"]
    wanted = [cfg.get("test_split") or cfg.get("validation_split")]
    if shots or (shots is None and cfg.get("num_fewshot")):
        wanted.append(cfg.get("fewshot_split") or cfg.get("training_split"))
    for split in filter(None, wanted):
        if split not in splits:
            raise DataError(f"{where}: split {split!r} is needed, has {', '.join(splits)}")
    files = {
        split: file if entry.get("package") else str(Path(file).absolute())
        for split, file in splits.items()
    }
    content = {
        "include": str(standard.yaml_path),
        "task": leaf,
        "dataset_kwargs": {**entry, "splits": files, "name": cfg.get("dataset_name")},
        **{key: None for key in SPLITS if cfg.get(key) is not None and cfg[key] not in splits},
    }
    path = folder / f"{leaf}.yaml"
    function = "custom_dataset: !function fusegpt.evaluation.task_data.read_splits\n"
    path.write_text(yaml.safe_dump(content, sort_keys=False) + function, encoding="utf-8")
    return path


def _entry(name: str) -> Entry | None:
    with quiet():
        return entry_of(name)


def _known(name: str) -> Entry:
    """What lm-eval has under a name that ``leaves`` gave."""
    entry = _entry(name)
    assert entry is not None, name
    return entry


def _built(path: Path) -> Any:
    """The task of a file."""
    manager = TaskManager(include_defaults=False)
    return next(iter(manager.load([str(path)])["tasks"].values()))


def _from_file(leaf: str, path: Path) -> Any:
    try:
        with quiet():
            return _built(path)
    except FuseGPTError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        reason = first_line(error)
        raise DataError(f"tasks.{leaf}: the data do not fit the task ({reason})") from error


def _from_hub(leaf: str) -> Any:
    reason, standard = offline_reason(), _known(leaf)
    try:
        with quiet(), _offline(bool(reason)):
            return _built(standard.yaml_path)
    except (OSError, ValueError, LookupError) as error:
        cfg = standard.cfg or {}
        why = f"not in the hub's cache, and {reason}" if reason else first_line(error)
        raise DataError(f"tasks.{leaf}: {cfg.get('dataset_path')}: {why}; {ADVICE}") from error


@contextlib.contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Let the hub's clients look into their caches only, instead of retrying for half a minute."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        if offline:
            constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
