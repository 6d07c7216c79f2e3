"""What texts start from that a model writes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusegpt.data.chats import Message, format_of, read_conversations
from fusegpt.data.corpora import by_rank, file_of
from fusegpt.data.cutting import cut_stream
from fusegpt.data.generated import Generated
from fusegpt.data.rewriting import request
from fusegpt.data.templates import ask, reply
from fusegpt.data.tokenised import source_of
from fusegpt.data.tokens import adds_bos
from fusegpt.data.windows import draw
from fusegpt.errors import DataError

__all__ = ["Start", "starts_of"]


@dataclass(frozen=True)
class Start:
    """What a text begins with.

    Attributes:
        ids: Token ids of the text before what the model writes.
        shown: Token ids that the model goes on from; None: ``ids``.
        answer: Token ids of the answer that is there, its end included, where it is rewritten.
    """

    ids: list[int]
    shown: list[int] | None = None
    answer: list[int] | None = None

    @property
    def prompt(self) -> list[int]:
        """What the model goes on from."""
        return self.ids if self.shown is None else self.shown


def starts_of(tokenizer: Any, settings: Generated, corpora: Mapping[str, Any]) -> list[Start]:
    """Return what each text starts from; fewer texts are the first of more.

    Args:
        tokenizer: The model's.
        settings: What texts start from.
        corpora: The configuration's ``corpora``.

    Raises:
        DataError: The corpus is not there, too short, or no file of conversations.
    """
    if settings.start == "prompts":
        return _prompts(tokenizer, settings, corpora)
    opening = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    if settings.start == "random":
        special = set(tokenizer.all_special_ids)
        rows = [one for one in range(tokenizer.vocab_size) if one not in special]
        draws = [draw(settings.seed, number) for number in range(settings.sequences)]
        return [Start([*opening, rows[one % len(rows)]]) for one in draws]
    assert settings.corpus is not None, settings
    named = (settings.corpus, settings.split, corpora)
    source = source_of(tokenizer, *named, bos=False, answers=False)
    length = settings.prefix + len(opening)
    cut = cut_stream(source, settings.sequences, length, settings.seed, opening)
    return [Start(row) for row in cut.ids.tolist()]


def _prompts(tokenizer: Any, settings: Generated, corpora: Mapping[str, Any]) -> list[Start]:
    """Conversations up to the last answer; passed over are those that leave no room for one."""
    named = settings.corpus or ""
    entry = corpora.get(named) or {}
    file = file_of(named, settings.split, corpora)
    if file is None or not file.is_file() or format_of(file) is None:
        raise DataError(f"{named}: prompts must be a file of conversations, got {file or named}")
    chats = read_conversations(file, entry.get("documents"))
    found: list[Start] = []
    for number in by_rank(len(chats), settings.seed):
        where, messages = chats[number]
        start = (_rewritten if settings.rewrite else _asked)(tokenizer, settings, messages, where)
        if start is not None:
            found.append(start)
        if len(found) == settings.sequences:
            return found
    room = (
        "a question with an answer that fit" if settings.rewrite else "a question that leaves room"
    )
    raise DataError(
        f"{file}: {settings.sequences} answers asked, {len(found)} of {len(chats)} conversations"
        f" have {room} in {settings.length} tokens; lower sequences"
    )


def _asked(
    tokenizer: Any, settings: Generated, messages: Sequence[Message], where: str
) -> Start | None:
    """A conversation that waits for its last answer; None: it leaves no room for one."""
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    ids = ask(tokenizer, asked, where).tolist() if asked else []
    return Start(ids) if 0 < len(ids) < settings.length else None


def _rewritten(
    tokenizer: Any, settings: Generated, messages: Sequence[Message], where: str
) -> Start | None:
    """A conversation whose last answer is rewritten; None: it has none, or is too long."""
    shown = request(settings.template, messages)
    if shown is None:
        return None
    ids, answer = ask(tokenizer, messages[:-1], where).tolist(), reply(tokenizer, messages, where)
    if not answer or len(ids) + len(answer) > settings.length:
        return None
    return Start(ids, ask(tokenizer, shown, where).tolist(), answer)
