"""A project where Snakemake runs the real verbs on a tiny model."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from fusegpt.cli import main; main()"


def configuration(epochs: int, steps: int = 2) -> dict[str, Any]:
    """FuseGPT on six blocks, in float32, with a tiny budget."""
    windows = {"corpus": "zen", "length": 16, "batch_size": 4}
    return {
        "models": {"tiny": {"source": "dir:model", "num_blocks": 6}},
        "corpora": {"zen": {"splits": {"train": "zen.txt", "test": "zen.txt"}}},
        "evaluations": {
            "zen": {"eval": "perplexity", "dtype": "float32", "corpus": "zen", "length": 16},
        },
        "experiments": {
            "study": {
                "models": ["tiny"],
                "recipes": ["fusegpt"],
                "sparsities": [int(1000 * steps / 6) / 1000],
                "evaluations": ["zen"],
                "keep_checkpoints": True,
                "settings": {
                    "dtype": "float32",
                    "calibration": {**windows, "sequences": 4},
                    "finetune": {**windows, "sequences": 8},
                    "recovery": {
                        "group_size": 2,
                        "rank": 2,
                        "lora_rank": 2,
                        "epochs": epochs,
                        "batch_size": 4,
                        "learning_rate": 1e-3,
                    },
                },
            }
        },
    }


class Project:
    """A directory with a model, a corpus, a configuration, and ``fusegpt`` on the PATH."""

    def __init__(self, directory: Path, model: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.log = directory / "scheduler.log"
        self.started: list[forked.Running] = []
        (directory / "bin").mkdir(parents=True)
        script = directory / "bin" / "fusegpt"
        script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{MAIN}' \"$@\"\n")
        script.chmod(0o755)
        (directory / "model").symlink_to(model)
        zen = f"{shlex.quote(sys.executable)} -c 'import this'"
        text = subprocess.run(zen, shell=True, capture_output=True, text=True, check=True).stdout
        (directory / "zen.txt").write_text(text)
        os.utime(directory / "zen.txt", (1, 1))  # older than windows that another project sampled
        (directory / "study.json").write_text(json.dumps(config))
        self.environment = os.environ | {
            "PATH": f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FUSEGPT_CHECKPOINT_SECONDS": "0",
        }

    def command(self, *arguments: str, profile: str = "default") -> list[str]:
        """What follows ``snakemake``."""
        return [
            *arguments,
            *("--snakefile", str(ROOT / "Snakefile")),
            *("--profile", str(ROOT / "config/profiles" / profile)),
            *("--configfile", "study.json"),
        ]

    def start(self, *arguments: str, **more: str) -> forked.Running:
        """Start Snakemake as the head of a process group of its own."""
        asked = self.command(*arguments, **more)
        running = forked.start(asked, self.directory, self.environment, self.log, self.log)
        self.started.append(running)
        return running

    def end(self) -> None:
        """End whatever still runs, orphans too, so that a failed test leaves nothing behind."""
        for running in self.started:
            running.end()

    def finish(self, *arguments: str, **more: str) -> None:
        """Run to the end."""
        code = self.start(*arguments, **more).wait()
        assert code == 0, self.log.read_text()[-4000:]

    def unlock(self) -> None:
        """What the README says comes after a killed scheduler."""
        self.finish("--unlock")

    def step(self, number: int) -> Path:
        """Directory of a step, which need not be there yet."""
        runs = list((self.directory / "results/runs/tiny").glob("fusegpt-*"))
        folder = runs[0] if runs else self.directory / "not-yet"
        return folder / f"step-{number:03d}"

    def weights(self) -> dict[str, bytes]:
        """Every weight file and every training row that the run left."""
        patterns = ("runs/tiny/*/*/delta.safetensors", "runs/tiny/*/*/training.json")
        patterns += ("checkpoints/tiny/*/*/*.safetensors",)
        results = self.directory / "results"
        files = [file for pattern in patterns for file in sorted(results.glob(pattern))]
        return {str(file.relative_to(results)): file.read_bytes() for file in files}
