"""Conversations in local files, in the four usual formats, read as lists of messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusegpt.data.files import columns_of, read_rows
from fusegpt.errors import DataError

__all__ = ["FORMATS", "Message", "format_of", "holds_answers", "read_conversations"]

Message = Mapping[str, Any]

FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt and completion": ("prompt", "completion"),
    "conversations": ("conversations",),
    "instruction and output": ("instruction", "output"),
}
"""Formats by name, and the columns that tell them; a column ``text`` makes a file one of text."""
ROLES = {"human": "user", "gpt": "assistant"}
"""Roles of ShareGPT that others call differently."""


def format_of(path: Path) -> str | None:
    """Return the format of a file of conversations, by its first row; None: it holds no such."""
    columns = set(columns_of(path))
    if columns & {"text", "page", "input_ids", "image"}:
        return None
    return next((name for name, keys in FORMATS.items() if columns.issuperset(keys)), None)


def holds_answers(path: Path) -> bool:
    """Whether a file is one of conversations, or of token ids of which answers are known."""
    return format_of(path) is not None or "answers" in columns_of(path)


def read_conversations(path: Path, limit: int | None = None) -> list[tuple[str, list[Message]]]:
    """Read the conversations of a file, each with its place for messages of errors.

    Args:
        path: jsonl (also gzipped) or parquet; all rows have the format of the first.
        limit: Read the first ``limit`` conversations only.

    Raises:
        DataError: A row is of another format, or a conversation has no message, or one without
            role or content.
    """
    form = format_of(path)
    assert form is not None, path
    found = []
    for where, row in read_rows(path, limit):
        missing = [key for key in FORMATS[form] if row.get(key) is None]
        if missing:
            raise DataError(
                f"{where}: must have {form} as the first conversation has, got none of"
                f" {missing[0]!r}; put other formats into files of their own"
            )
        messages = _messages(row, form, where)
        if not messages:
            raise DataError(f"{where}: a conversation must have at least one message, got none")
        found.append((where, messages))
    return found


def _messages(row: Message, form: str, where: str) -> list[Message]:
    """The messages of a row, each with role and content."""
    if form == "messages":
        return [_message(one, ("role", "content"), where) for one in _listed(row[form], where)]
    if form == "conversations":
        turns = _listed(row[form], where)
        keys = [("from", "value") if "from" in one else ("role", "content") for one in turns]
        return [_message(*pair, where) for pair in zip(turns, keys, strict=True)]
    if form == "prompt and completion":
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list) and isinstance(completion, list):
            both = [*_listed(prompt, where), *_listed(completion, where)]
            return [_message(one, ("role", "content"), where) for one in both]
        return _pair(prompt, completion, where)
    more = row.get("input")
    return _pair(
        f"{row['instruction']}\n\n{more}" if more else row["instruction"], row["output"], where
    )


def _pair(question: object, answer: object, where: str) -> list[Message]:
    for value in (question, answer):
        if not isinstance(value, str):
            raise DataError(f"{where}: question and answer must be texts, got {value!r:.60}")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _listed(value: object, where: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise DataError(f"{where}: messages must be a list of tables, got {value!r:.60}")
    return value


def _message(one: Message, keys: tuple[str, str], where: str) -> Message:
    """One message with role and content; what else it has stays for the template."""
    role, content = (one.get(key) for key in keys)
    if not isinstance(role, str) or content is None:
        raise DataError(
            f"{where}: a message must have {keys[0]} and {keys[1]}, got {dict(one)!r:.60}"
        )
    rest = {key: value for key, value in one.items() if key not in keys and value is not None}
    return {**rest, "role": ROLES.get(role, role), "content": content}
