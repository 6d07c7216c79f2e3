"""Windows of image-question sequences: token ids that carry their pictures with them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusegpt.data.carried import Carried
from fusegpt.data.processors import load_processor
from fusegpt.data.windows import draw
from fusegpt.errors import DataError

__all__ = ["Pictured", "has_pictures", "sample_questions"]

PLACE = "<image>"
Extras = dict[str, Tensor]


class Pictured(Carried):
    """Token ids ``[sequences, length]`` and, for each sequence, what else its forward pass takes.

    Attributes:
        extras: For each sequence the processor's other outputs, e.g. pixel_values.
    """

    extras: Sequence[Extras]

    @staticmethod
    def of(ids: Tensor, extras: Sequence[Extras]) -> Pictured:
        """Put ids and pictures together."""
        assert len(ids) == len(extras), (len(ids), len(extras))
        made = torch.Tensor._make_subclass(Pictured, ids)
        made.extras = extras
        return made

    def inputs(self) -> dict[str, Tensor]:
        """Return the forward pass's arguments: the ids, and the sequences' extras joined."""
        joined = {
            name: torch.cat([extra[name] for extra in self.extras]) for name in self.extras[0]
        }
        return {"input_ids": self.plain(), **joined}

    def part(self, sequences: slice) -> Pictured:
        """Return some of the sequences, with their pictures."""
        return Pictured.of(self.plain()[sequences], self.extras[sequences])

    def __iter__(self) -> Any:
        raise DataError("image-question windows: this method reads text only; use text windows")


def has_pictures(path: Path) -> bool:
    """Whether a file is a parquet file of questions with images inside."""
    import pyarrow.parquet as pq

    path = Path(path)
    return path.suffix == ".parquet" and path.is_file() and "image" in pq.read_schema(path).names


def sample_questions(
    directory: Path, file: Path, sequences: int, length: int, seed: int
) -> tuple[Pictured, dict[str, Any]]:
    """Draw questions with their images and answers, and process them for a model.

    Each sequence is the image, the question and the answer, cut to ``length`` tokens, so that
    sequences fill batches without padding. Draws are prefix-stable.

    Args:
        directory: The model's directory: its processor.
        file: Parquet with the columns image (bytes inside), text or question, and answer.
        sequences: Number of questions to draw.
        length: Tokens of each sequence.
        seed: Seed of the draw.

    Returns:
        The windows, and what there is to note of them.

    Raises:
        ArtifactError: No processor of images in the directory.
        DataError: A column is missing; a question is shorter than ``length``; or its image alone is
            longer.
    """
    import pyarrow.parquet as pq

    if not sequences:
        raise DataError(f"{file}: say how many sequences to draw; rows are for text")
    processor = load_processor(directory)
    rows = pq.read_table(file).to_pylist()
    chosen = [rows[draw(seed, number) % len(rows)] for number in range(sequences)]
    done = [_process(processor, row, length, file) for row in chosen]
    ids = torch.stack([tokens for tokens, _ in done])
    notes = {
        "variant": "image_text",
        "source": f"file:{Path(file).name}",
        "documents": len(rows),
        "tokens": ids.numel(),
        "sequences": sequences,
        "length": length,
    }
    return Pictured.of(ids, [extra for _, extra in done]), notes


def _process(
    processor: Any, row: Mapping[str, Any], length: int, file: Path
) -> tuple[Tensor, Extras]:
    """One sequence ``[length]`` and its extras."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        text = row["text"] if "text" in row else f"{PLACE}\n{row['question']}"
        text = f"{text} {row['answer']}"
    except KeyError as error:
        raise DataError(f"{file}: must have columns image, text or question, and answer") from error
    text = text.replace(PLACE, getattr(processor, "image_token", PLACE))
    made = dict(processor(images=[image], text=[text], return_tensors="pt"))
    tokens = made.pop("input_ids")
    made.pop("attention_mask", None)  # nothing is padded
    if tokens.shape[1] < length:
        raise DataError(
            f"{file}: a question with its image has {tokens.shape[1]} tokens; lower the length"
        )
    places = tokens[0] == getattr(processor, "image_token_id", -1)
    if places[length:].any():
        raise DataError(f"{file}: an image reaches beyond {length} tokens; raise the length")
    along = {name: value.shape[:2] == tokens.shape for name, value in made.items()}
    extras = {name: value[:, :length] if along[name] else value for name, value in made.items()}
    return tokens[0, :length], extras
