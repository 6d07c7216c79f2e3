"""``fusegpt export``: a model as a file that another program runs."""

from __future__ import annotations

from pathlib import Path

import click

from fusegpt.cli.options import input_path, output_path


@click.command()
@click.argument("checkpoint", type=input_path)
@click.option(
    "--to", "target", required=True, metavar="TARGET", help="gguf:q4_k_m, int8, int4, gptq4, ..."
)
@click.option(
    "--calibration",
    type=input_path,
    help="Windows of text, of fusegpt sample: gptq4 rounds weights so that these change least.",
)
@click.option("--output", required=True, type=output_path, help="The directory to write.")
def export(checkpoint: Path, target: str, calibration: Path | None, output: Path) -> None:
    """Write a model as another program runs it, and load it there.

    CHECKPOINT is a checkpoint or a fetched model.

    GGUF files are written by llama.cpp's converter and quantiser (make export-tools installs
    them) and loaded by llama.cpp, which must say what transformers says before weights are rounded.
    int8, int4 and gptq4 are directories that transformers and vLLM load; the last is written by
    llm-compressor (make gptq-tools installs it).
    """
    from fusegpt.errors import ConfigError
    from fusegpt.exports.targets import parse_target

    try:
        asked = parse_target(target)
    except ConfigError as error:
        raise ConfigError(f"--to: {error}") from None
    from fusegpt.exports.job import export_model

    made = export_model(checkpoint, asked, output, calibration)
    for name, about in made.files.items():
        click.echo(f"{(about.bytes or 0) / 1e6:>10.1f} MB  {output / name}")
    for name, value in made.checks.items():
        click.echo(f"{name:<20} {value}")
