"""What texts start from that a model writes itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusegpt.data.chats import format_of, read_conversations
from fusegpt.data.corpora import by_rank
from fusegpt.data.cutting import cut_stream
from fusegpt.data.generated import Generated
from fusegpt.data.templates import ask
from fusegpt.data.tokenised import source_of
from fusegpt.data.tokens import adds_bos
from fusegpt.data.windows import draw
from fusegpt.errors import DataError

__all__ = ["starts_of"]


def starts_of(tokenizer: Any, settings: Generated, corpora: Mapping[str, Any]) -> list[list[int]]:
    """Return the token ids that each text starts from; fewer texts are the first of more.

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
        return [[*opening, rows[one % len(rows)]] for one in draws]
    assert settings.corpus is not None, settings
    named = (settings.corpus, settings.split, corpora)
    source = source_of(tokenizer, *named, bos=False, answers=False)
    length = settings.prefix + len(opening)
    cut = cut_stream(source, settings.sequences, length, settings.seed, opening)
    found: list[list[int]] = cut.ids.tolist()
    return found


def _prompts(tokenizer: Any, settings: Generated, corpora: Mapping[str, Any]) -> list[list[int]]:
    """Conversations up to the last answer; passed over are those that leave no room for one."""
    named = settings.corpus or ""
    entry = corpora.get(named) or {}
    file = Path(entry.get("splits", {}).get(settings.split, named))
    if not file.is_file() or format_of(file) is None:
        raise DataError(f"{named}: prompts must be a file of conversations, got {file}")
    chats = read_conversations(file, entry.get("documents"))
    found: list[list[int]] = []
    for number in by_rank(len(chats), settings.seed):
        where, messages = chats[number]
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        ids = ask(tokenizer, asked, where).tolist() if asked else []
        if 0 < len(ids) < settings.length:
            found.append(ids)
        if len(found) == settings.sequences:
            return found
    raise DataError(
        f"{file}: {settings.sequences} answers asked, {len(found)} of {len(chats)} conversations"
        f" have a question that leaves room in {settings.length} tokens; lower sequences"
    )
