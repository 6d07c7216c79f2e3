"""A figure as it goes into the page: shapes and text, nothing that runs or loads."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from fusegpt.errors import ArtifactError
from fusegpt.results.digests import without_digest

__all__ = ["plain_svg"]

SPACE = "{http://www.w3.org/2000/svg}"
SHAPES = frozenset(
    "svg g path rect line circle ellipse polyline polygon text tspan defs clipPath title desc"
    " linearGradient radialGradient stop".split()
)
REACHES = re.compile(r"url\(\s*['\"]?(?!#)|javascript:|expression\(|@import", re.IGNORECASE)


def plain_svg(file: Path) -> str:
    """Read an SVG that may stand in a page of ours.

    Raises:
        ArtifactError: It is no SVG, or has more than shapes and text: scripts, links, images.
    """
    try:
        text = without_digest(file.read_text(encoding="utf-8"))
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("a document type")
        root = ElementTree.fromstring(text)
        if root.tag != f"{SPACE}svg":
            raise ValueError(f"the root {root.tag!r:.60}")
        for element in root.iter():
            _check(element)
    except (OSError, ValueError, RecursionError, ElementTree.ParseError) as error:
        raise ArtifactError(
            f"{file}: must be a figure of shapes and text, got {str(error)[:120]}; draw it with"
            " fusegpt figure"
        ) from None
    return text[text.index("<svg") :]


def _check(element: ElementTree.Element) -> None:
    name = str(element.tag).removeprefix(SPACE)
    if name not in SHAPES:
        raise ValueError(f"an element {name!r:.60}")
    for key, value in element.attrib.items():
        plain = key.rpartition("}")[2].lower()
        if plain.startswith("on") or (plain == "href" and not value.startswith("#")):
            raise ValueError(f"an attribute {plain!r:.60}")
        if REACHES.search(value):
            raise ValueError(f"a value {value!r:.60}")
