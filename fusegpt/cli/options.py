"""Options and parameter types that several verbs share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["JsonObject", "device_option", "input_file", "input_path", "output_path"]

input_path = click.Path(exists=True, path_type=Path)
input_file = click.Path(exists=True, dir_okay=False, path_type=Path)
output_path = click.Path(path_type=Path)


class JsonObject(click.ParamType):
    """A JSON object on the command line, e.g. ``--settings '{"rank": 8}'``."""

    name = "json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """Parse the text; anything but an object is a usage error."""
        if isinstance(value, dict):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as error:
            self.fail(f"must be a JSON object, got {value!r}: {error}", param, ctx)
        if not isinstance(parsed, dict):
            self.fail(f"must be a JSON object, got {value!r}", param, ctx)
        return parsed


device_option = click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."
)
