"""What Snakemake would run, asked of Snakemake itself."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.config import builtin_config_dir
from fusegpt.errors import ConfigError
from fusegpt.workflow.dense_scores import DenseScores, all_dense_scores
from fusegpt.workflow.experiment import make_plan
from fusegpt.workflow.files import snakefile

__all__ = ["Job", "jobs"]


SETS = "evaluate_"
"""How the rules of sets of evaluations begin; the rest names the set."""


@dataclass(frozen=True)
class Job:
    """One job of a dry run; sets of evaluations all are of the rule ``evaluate``."""

    rule: str
    wildcards: Mapping[str, str]


def jobs(
    config: Mapping[str, Any],
    directory: Path,
    *,
    everything: bool = False,
    workflow: Path | None = None,
) -> list[Job]:
    """The jobs of a dry run.

    Args:
        config: The merged configuration.
        directory: Where results lie; made if it is not there.
        everything: As if nothing had run.
        workflow: A Snakefile that imports this project's rules under their names; None: ours.

    Raises:
        ConfigError: Snakemake refuses; its last line says why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "merged.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "snakemake", "--dry-run", "--nocolor", "--cores", "1"),
            *("--snakefile", str(workflow or snakefile()), "--directory", str(directory)),
            *("--configfile", str(file), "--nolock", "--rerun-incomplete"),
            *(["--forceall"] if everything else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ConfigError(f"snakemake --dry-run: {lines[-1] if lines else done.returncode}")
    return [_of_a_run(job, config) for job in _parse(done.stdout)]


def _of_a_run(job: Job, config: Mapping[str, Any]) -> Job:
    """Shared scores of a dense model as those of the first run that needs them."""
    if job.rule != "score_dense":
        return job
    _, recipe, step = _dense_scores(json.dumps(config))[job.wildcards["scores"]]
    return Job("score", {"model": job.wildcards["model"], "recipe": recipe, "k": f"{step:03d}"})


@functools.lru_cache(maxsize=1)
def _dense_scores(config: str) -> dict[str, tuple[DenseScores, str, int]]:
    return all_dense_scores(make_plan(json.loads(config), builtin_config_dir() / "recipes"))


def _parse(text: str) -> list[Job]:
    found = []
    for block in re.split(r"^(?=(?:local)?rule \w+:$)", text, flags=re.MULTILINE)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)
        assert rule is not None
        line = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
        pairs = [pair.split("=", 1) for pair in line[1].split(", ")] if line else []
        name, wildcards = rule[1], {pair[0]: pair[1] for pair in pairs}
        if name.startswith(SETS):
            name, wildcards["evaluation"] = "evaluate", name.removeprefix(SETS)
        found.append(Job(name, wildcards))
    return [job for job in found if job.rule != "all"]
