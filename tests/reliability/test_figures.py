"""How many cases of this folder concern which verb; ``docs/reliability.md`` says so."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from fusegpt.cli import VERBS

PAGE = "docs/reliability.md"
OF_FILE = {
    "test_any_input.py": "records and settings",
    "test_flipped_bits.py": "verify",
    "test_foreign.py": "other foreign input",
    "test_given_scores.py": "fuse",
    "test_graph.py": "run",
    "test_lock_files.py": "locks",
    "test_places.py": "places",
    "test_settings.py": "records and settings",
    "test_signals.py": "signals",
    "test_trust.py": "resumed, stored and loaded",
}
"""What the cases of a file are about that name no verb of their own."""


def subject(item: pytest.Item) -> str:
    """The verb of a case, or what else it is about."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    verb, words = params.get("verb"), params.get("arguments")
    named = verb if verb is not None else words[0] if isinstance(words, list) and words else None
    return str(named) if named in VERBS else OF_FILE[item.path.name]


def test_the_page_says_no_more_than_is_tried(request, root):
    mine = [item for item in request.session.items if item.path.name in OF_FILE]
    if {item.path.name for item in mine} != OF_FILE.keys() or request.config.option.keyword:
        pytest.skip("only part of the folder was asked for")
    found = Counter(subject(item) for item in mine)
    found["all"] = sum(found.values())

    page = (root / PAGE).read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| ([a-z, ]+) \| (\d+) \|$", page, re.M))

    assert len(said) > 20
    assert {name: int(number) for name, number in said.items() if int(number) > found[name]} == {}
