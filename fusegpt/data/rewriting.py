"""Answers that a model says in its own words: how it is asked, and which of them are taken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from fusegpt.data.chats import Message

__all__ = ["accepted", "request"]

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def request(template: str, messages: Sequence[Message]) -> list[Message] | None:
    """Return a conversation whose last question asks for its answer in other words.

    Args:
        template: Its ``{question}`` and ``{answer}`` are filled in.
        messages: A conversation.

    Returns:
        None, where the conversation does not end in a question and an answer that are texts.
    """
    if [one["role"] for one in messages[-2:]] != ["user", "assistant"]:
        return None
    texts = {"{question}": messages[-2]["content"], "{answer}": messages[-1]["content"]}
    if not all(isinstance(text, str) for text in texts.values()):
        return None
    filled = re.sub(r"\{question\}|\{answer\}", lambda part: texts[part[0]], template)
    return [*messages[:-2], {**messages[-2], "content": filled}]


def accepted(
    tokenizer: Any,
    rule: Literal["all", "ended", "number"],
    new: Sequence[int],
    original: Sequence[int],
    *,
    ended: bool,
) -> bool:
    """Whether a rewritten answer is taken in place of the original one.

    Args:
        tokenizer: The model's.
        rule: As ``accept`` of the settings says.
        new: Token ids of the rewritten answer.
        original: Token ids of the one that is there.
        ended: Whether the model came to an end.
    """
    if rule == "all":
        return True
    text, wanted = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (new, original))
    if not (ended and text.strip()):
        return False
    return rule == "ended" or _last_number(wanted) in (None, _last_number(text))


def _last_number(text: str) -> float | None:
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
