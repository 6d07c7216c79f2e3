"""Conversations as token ids, by a tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fusegpt.data.chats import Message
from fusegpt.errors import DataError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ask", "render", "reply"]


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    where: str,
    *,
    answers: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Turn a conversation into token ids, by the tokenizer's own chat template.

    Args:
        tokenizer: Has a chat template.
        messages: The conversation: role and content of each message, in order.
        where: Begins messages of errors.
        answers: Also tell the tokens of the assistant's messages, from behind what the template
            writes to ask for one, to what it writes to end it.

    Returns:
        ``[tokens]`` int32, and ``[tokens]`` bool or None.

    Raises:
        DataError: There is no template, it refuses the conversation, or a message changes what
            stands before it, so that answers cannot be told.
    """
    text = _through_template(tokenizer, messages, where)
    if not answers:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32), None
    if not tokenizer.is_fast:
        raise DataError(f"{where}: answers are told by a fast tokenizer only; use predict 'all'")
    spans = _spans(tokenizer, messages, text, where)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    told = [
        any(first <= start < last for first, last in spans) for start, _ in coded["offset_mapping"]
    ]
    return np.asarray(coded["input_ids"], dtype=np.int32), np.asarray(told, dtype=bool)


def ask(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], where: str) -> np.ndarray:
    """Return the token ids of a conversation that waits for the assistant's answer.

    Raises:
        DataError: There is no template, or it refuses the conversation.
    """
    text = _through_template(tokenizer, messages, where, prompt=True)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.asarray(ids, dtype=np.int32)


def reply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], where: str) -> list[int]:
    """Return the token ids of a conversation's last message, the assistant's, with its end.

    Raises:
        DataError: As of ``ask``; or the last message changes what stands before it.
    """
    whole = _through_template(tokenizer, messages, where)
    asked = _through_template(tokenizer, messages[:-1], where, prompt=True)
    if not whole.startswith(asked):
        raise DataError(
            f"{where}: the model's chat template writes the question differently when an answer"
            " follows, so answers cannot be told; set rewrite to false"
        )
    tail = whole[len(asked) :].rstrip()
    ids: list[int] = tokenizer(tail, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _through_template(
    tokenizer: Any, messages: Sequence[Message], where: str, prompt: bool = False
) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"{where}: conversations must go through a chat template, and the model's tokenizer"
            " has none; put chat_template.jinja into the model's directory, or give texts"
        )
    try:
        found: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:  # a template is a program of others
        raise DataError(
            f"{where}: the model's chat template refuses the conversation ({first_line(error)})"
        ) from error
    return found


def _spans(
    tokenizer: Any, messages: Sequence[Message], text: str, where: str
) -> list[tuple[int, int]]:
    """Where the assistant's messages begin and end in the text of a conversation."""
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = messages[:number]
        asked = _through_template(tokenizer, before, where, prompt=True) if before else ""
        whole = _through_template(tokenizer, messages[: number + 1], where)
        if not (text.startswith(whole) and whole.startswith(asked)):
            raise DataError(
                f"{where}: the model's chat template writes message {number + 1} differently when"
                " others follow, so answers cannot be told; use predict 'all'"
            )
        spans.append((len(asked), len(whole)))
    return spans
