"""The libraries that draw the page's charts and tables, as text to put into the page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import vl_convert

from fusegpt.errors import ArtifactError

__all__ = ["charts_script", "inside_script", "tables_script", "tables_style"]


def charts_script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed, which define ``vegaEmbed``."""
    return vl_convert.javascript_bundle()  # type: ignore[call-arg]


def tables_script() -> str:
    """Return DataTables with its extensions: a JavaScript module whose default export it is."""
    return _bundled("dt_bundle.js")


def tables_style() -> str:
    """Return the style sheet of DataTables."""
    return _bundled("dt_bundle.css")


def inside_script(text: str) -> str:
    """Escape what would end the ``<script>`` that a text stands in; JavaScript reads the same."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def _bundled(name: str) -> str:
    """A file of the package itables, which carries DataTables; it is not imported."""
    spec = importlib.util.find_spec("itables")
    if spec is None or spec.origin is None:
        raise ArtifactError("itables: must be installed, the page's tables are its; pip install it")
    return (Path(spec.origin).parent / "html" / name).read_text(encoding="utf-8")
