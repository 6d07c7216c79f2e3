"""Where the methods of a recipe are published, as their settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusegpt.importance import METRICS
from fusegpt.methods import Method
from fusegpt.recovery import FINISHES, RECOVERIES
from fusegpt.results.base import check
from fusegpt.results.files import RecipeText
from fusegpt.slicegpt import WIDTHS

__all__ = ["papers_of"]


def papers_of(recipe: Mapping[str, Any] | None, where: str) -> list[str]:
    """Return the papers of a recipe's methods, each once; a method of another version has none.

    Args:
        recipe: What ``Recipe.to_json`` gave, as it stands in a record.
        where: Name of the record in messages.

    Raises:
        ArtifactError: It is no recipe.
    """
    if recipe is None:
        return []
    text = check(recipe, RecipeText, where)
    tables: list[Mapping[str, Method[Any]]] = [WIDTHS, METRICS, RECOVERIES, FINISHES]
    sections = (text.width, text.importance, text.recovery, text.finish)
    lines = [
        table[name]
        for table, section in zip(tables, sections, strict=True)
        if section is not None and (name := section.metric or section.method or "") in table
    ]
    return list(dict.fromkeys(line.schema.paper for line in lines if line.schema.paper))
