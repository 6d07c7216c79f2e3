"""Parameters of which some run in ``make test`` and all of them in ``make test-all``."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def slow(*values: Any, **more: Any) -> Any:
    """One set of parameters that only ``--slow`` runs."""
    return pytest.param(*values, marks=pytest.mark.slow, **more)


def each(values: Iterable[Any], quick: Container[Any]) -> list[Any]:
    """All values, those that are not among the quick ones slow."""
    return [value if value in quick else slow(value) for value in values]
