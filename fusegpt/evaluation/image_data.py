"""Questions about images: from a parquet file with the images inside, or from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusegpt.data.hub import offline_reason
from fusegpt.errors import DataError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["read_questions"]

ADVICE = "name a parquet file with the images inside below tasks: in a configuration file"


def read_questions(
    file: str | None = None, hub: str | None = None, split: str = "test", **_: Any
) -> dict[str, Dataset]:
    """Read a task's questions; lm-eval calls this.

    Args:
        file: A parquet file with the hub's columns; images as ``{bytes, path}``.
        hub: The data set's name on the hub, read when there is no file.
        split: Its split; of GQA the beginning of two configurations' names.
        _: The task's metadata, which lm-eval passes too.

    Raises:
        DataError: No such file, not parquet, no images in it, or the hub cannot be reached.
    """
    return {"test": _from_file(Path(file)) if file is not None else _from_hub(hub, split)}


def _from_file(path: Path) -> Dataset:
    import pyarrow.parquet as pq
    from datasets import Dataset

    try:
        table = pq.read_table(path).replace_schema_metadata(None)  # images stay bytes
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable parquet file ({first_line(error)})") from error
    if not any(name in table.column_names for name in ("image", "image_1")):
        raise DataError(f"{path}: must have a column image or image_1, has {table.column_names}")
    return Dataset(table)


def _from_hub(hub: str | None, split: str) -> Dataset:
    if hub is None:
        raise DataError(f"these questions are on no hub; {ADVICE}")
    if reason := offline_reason():
        raise DataError(f"{hub}: {reason}; {ADVICE}")
    from datasets import load_dataset

    try:
        if hub.endswith("/GQA"):
            return _joined(hub, split)
        return load_dataset(hub, split=split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{hub}: the hub did not give it ({first_line(error)}); {ADVICE}"
        ) from error


def _joined(hub: str, split: str) -> Dataset:
    """GQA keeps questions and images apart."""
    from datasets import load_dataset

    stored = load_dataset(hub, f"{split}_balanced_images", split=split)
    places: Mapping[str, int] = {name: place for place, name in enumerate(stored["id"])}
    questions = load_dataset(hub, f"{split}_balanced_instructions", split=split)
    images = stored.select([places[name] for name in questions["imageId"]])
    return questions.add_column("image", list(images["image"]))
