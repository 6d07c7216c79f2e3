"""From a language model to a small image-text model on disk: ``python build_llava.py --help``."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from answering import accuracy, prompt, train_answering
from assembly import assemble
from fusegpt.artifacts import atomic_directory, file_record, read_json, write_json
from fusegpt.cli import run
from fusegpt.cli.options import input_path, output_path
from fusegpt.data.directories import count_parameters, weight_files
from fusegpt.provenance import provenance
from fusegpt.runtime import Timer, quiet, set_up_logging
from pictures import Picture, draw_pictures
from tower import probe, train_tower

__all__ = ["build", "write_questions"]

logger = logging.getLogger("fusegpt.small_llava")

at_least_one = click.IntRange(min=1)

EXAMPLES = {"train": (256, 5, "training"), "test": (192, 77, "held_out")}
"""Question files that go with the model: how many, seed, digits."""


@click.command()
@click.option("--model", required=True, type=input_path, help="Directory of a fetched model.")
@click.option("--tower-steps", type=at_least_one, default=300, show_default=True)
@click.option("--steps", type=at_least_one, default=66, show_default=True)
@click.option("--output", required=True, type=output_path, help="The directory to make.")
def main(model: Path, tower_steps: int, steps: int, output: Path) -> None:
    """Train a vision tower on generated pictures, join it to a language model, teach it to answer.

    The result answers questions about colours, shapes and digits; accuracies stand in source.json.
    """
    set_up_logging(0)
    build(model, output, tower_steps=tower_steps, steps=steps)


def build(
    language: Path, output: Path, *, tower_steps: int = 300, steps: int = 66
) -> dict[str, Any]:
    """Train a vision tower, join it to a language model, train the whole to answer, save it.

    Args:
        language: Directory of a fetched model in Llama's layout.
        output: Directory to make: a plain transformers directory with its processor, and
            ``questions-train.parquet`` and ``questions-test.parquet`` to calibrate and measure.
        tower_steps: Optimiser steps of the vision tower, 64 pictures each.
        steps: Optimiser steps of the whole, 16 pictures each.

    Returns:
        The contents of ``source.json``, with the accuracies by kind of question.
    """
    base = read_json(language / "source.json")
    with Timer() as timer:
        tower = train_tower(tower_steps)
        probed = probe(tower)
        logger.info("vision tower: %s", _percent(probed))
        with quiet():
            model, processor = assemble(language, tower.tower)
        losses = train_answering(model, processor.tokenizer, steps)
        test = draw_pictures(*EXAMPLES["test"])  # type: ignore[arg-type]
        measured = accuracy(model, processor.tokenizer, test)
        logger.info("answers: %s", _percent(measured))
    training: dict[str, Any] = {"tower_steps": tower_steps, "steps": steps, "first_loss": losses[0]}
    training |= {"last_loss": losses[-1], "probe": probed, "accuracy": measured}
    training |= {"seconds": round(timer.seconds, 1), "threads": torch.get_num_threads()}
    with atomic_directory(output, last="source.json") as directory:
        with quiet():
            model.save_pretrained(directory)
        processor.save_pretrained(directory)
        for split, (count, seed, digits) in EXAMPLES.items():
            pictures = draw_pictures(count, seed, digits)  # type: ignore[arg-type]
            write_questions(directory / f"questions-{split}.parquet", pictures)
        notes = _manifest(directory, base, training, model.config.text_config.num_hidden_layers)
        write_json(directory / "source.json", notes)
    return notes


def write_questions(path: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures with question, prompt, answer and kind as parquet, images inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": _png(picture), "path": None} for picture in pictures]
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {
        "image": pa.array(images, type=image),
        "question": pa.array([picture.question for picture in pictures]),
        "text": pa.array([prompt(picture.question) for picture in pictures]),
        "answer": pa.array([picture.answer for picture in pictures]),
        "kind": pa.array([picture.kind for picture in pictures]),
    }
    pq.write_table(pa.table(columns), path)


def _png(picture: Picture) -> bytes:
    stream = io.BytesIO()
    picture.image.save(stream, format="PNG")
    return stream.getvalue()


def _manifest(
    directory: Path, base: dict[str, Any], training: dict[str, Any], num_blocks: int
) -> dict[str, Any]:
    return {
        "kind": "model",
        "source": f"made:{base.get('source')}",
        "revision": None,
        "licence": base.get("licence"),
        "base_model": base.get("base_model"),
        "model_type": "llava",
        "num_blocks": num_blocks,
        "parameters": sum(count_parameters(path) for path in weight_files(directory)),
        "training": training,
        "files": {path.name: file_record(path) for path in sorted(directory.iterdir())},
        "provenance": provenance(),
    }


def _percent(values: dict[str, float]) -> str:
    return ", ".join(f"{kind} {value:.2f}" for kind, value in values.items())


if __name__ == "__main__":
    sys.exit(run(main))
