"""What Snakemake would run, asked of Snakemake itself."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusegpt.errors import ConfigError
from fusegpt.results import layout as at
from fusegpt.workflow.dense_scores import all_dense_scores
from fusegpt.workflow.files import snakefile
from fusegpt.workflow.plan import Plan

__all__ = ["Job", "jobs"]


SETS = "evaluate_"
"""How the rules of sets of evaluations begin; the rest names the set."""

MISSING = re.compile(
    r"Missing input files for rule (?P<rule>\w+):\n.*?affected files:\n(?P<files>(?: +\S.*\n?)+)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Job:
    """One job of the workflow; sets of evaluations all are of the rule ``evaluate``.

    Attributes:
        rule: Name of the rule.
        wildcards: What stands for them in the job's files; ``evaluation`` is the set's name.
        waits: Whether it is still to run; if not, its results are there.
    """

    rule: str
    wildcards: Mapping[str, str]
    waits: bool = True


def jobs(
    plan: Plan,
    config: Mapping[str, Any],
    directory: Path,
    workflow: Path | None = None,
    shards: int = 1,
) -> list[Job]:
    """Every job of the workflow, from Snakemake's summary of the files that it makes.

    Args:
        plan: Plan of the merged configuration.
        config: The merged configuration.
        directory: Where results lie; made if it is not there.
        workflow: A Snakefile that imports this project's rules under their names; None: ours.
        shards: How many jobs share the calibration windows.

    Raises:
        ConfigError: Snakemake refuses; its last line says why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "merged.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "snakemake", "--summary", "--nocolor", "--cores", "1"),
            *("--snakefile", str(workflow or snakefile()), "--directory", str(directory)),
            *("--configfile", str(file), "--nolock"),
            *(("--set-scatter", f"score={shards}") if shards > 1 else ()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(_refusal(done.stderr + done.stdout) or f"snakemake: {done.returncode}")
    return list(_of_runs(plan, _parse(done.stdout.splitlines())))


def _refusal(said: str) -> str:
    """Snakemake's last line; of files that are missing, which, and the rule that reads them."""
    if missing := MISSING.search(said):
        files = ", ".join(line.strip() for line in missing["files"].splitlines())
        return f"{files}: must be there, as rule {missing['rule']} reads it and no rule makes it"
    lines = [line for line in said.splitlines() if line.strip()]
    return f"snakemake --summary: {lines[-1]}" if lines else ""


def _of_runs(plan: Plan, found: Iterable[Job]) -> Iterator[Job]:
    """Shared scores of a dense model are those of the first run that needs them."""
    shared = all_dense_scores(plan)
    for job in found:
        if job.rule == "score_dense":
            _, recipe, step = shared[job.wildcards["scores"]]
            run = {"model": job.wildcards["model"], "recipe": recipe, "k": f"{step:03d}"}
            yield Job("score", run, job.waits)
        elif job.rule == "score_dense_part":
            yield Job("score_part", job.wildcards, job.waits)
        else:
            yield job


def _parse(lines: Iterable[str]) -> Iterator[Job]:
    """One job for all files of a rule that differ in nothing but the evaluation."""
    seen = set()
    folders = set()  # where a job of a rule puts a record of ours, and perhaps other files
    for row in csv.DictReader(lines, delimiter="\t"):
        kind, names = _of_file(row["output_file"])
        if kind == at.recipe:  # which the job of step 0 makes, too
            continue
        rule, folder = row["rule"], row["output_file"].rpartition("/")[0]
        key = (rule, *names.values())
        if key in seen or ("file" in names and (rule, folder) in folders):
            continue
        seen.add(key)
        if "file" not in names:
            folders.add((rule, folder))
        if rule.startswith(SETS):
            rule, names = "evaluate", names | {"evaluation": rule.removeprefix(SETS)}
        yield Job(rule, names, row["plan"] != "no update")


def _of_file(file: str) -> tuple[str, dict[str, str]]:
    """What a file is, and the names in its path but the evaluation's.

    Files that only a rule of another workflow makes are each of their own kind.
    """
    found = at.parse(file) if file.startswith(f"{at.FOLDER}/") else None
    if found is None:
        return file, {"file": file}
    return found.kind, {name: x for name, x in found.names.items() if name != "evaluation"}
