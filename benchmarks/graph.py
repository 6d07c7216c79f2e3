"""How long Snakemake takes over a large sweep: to build the graph, and to find nothing to do.

    python benchmarks/graph.py --output graph.json            5 models, graph alone
    python benchmarks/graph.py --warm --models 1              run it too, with a stand-in

8 recipes x 10 sparsities x 12 evaluations a model, 32 blocks, up to 16 steps. Seconds are those of
the clock and of the processor; on a machine that does other things only the latter say something.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"cold": 10.0, "warm": 8.0}
STUB = """#!/bin/sh
for last; do :; done
previous=
for word; do
  case $previous in --output|--recipe-output) outputs="$outputs $word";; esac
  previous=$word
done
for output in $outputs; do
  case $1 in
    fetch) echo '{}' > "$output/source.json";;
    fuse) for file in delta.safetensors training.json manifest.json
          do echo '{}' > "$output/$file"; done;;
    merge) echo '{}' > "$output/fusegpt.json";;
    table) echo > "$output"; echo '{}' > "${output%.csv}.json";;
    *) echo '{}' > "$output";;
  esac
done
"""


def sweep(models: int) -> dict[str, Any]:
    """An experiment of so many models, each with 8 recipes, 10 sparsities and 12 evaluations."""
    importance = {"metric": "macro_influence"}
    recipes = {
        f"recipe_{i}": {
            "importance": importance,
            "recovery": {"method": "finetune", "lora_rank": i + 1},
        }
        for i in range(8)
    }
    evaluation = {"eval": "perplexity", "corpus": "python_docs", "split": "test"}
    evaluations = {f"evaluation-{i}": {**evaluation, "length": 64 + i} for i in range(12)}
    names = [f"model-{i}" for i in range(models)]
    experiment = {
        "models": names,
        "recipes": list(recipes),
        "sparsities": [round(0.05 * i, 2) for i in range(1, 11)],
        "evaluations": list(evaluations),
    }
    return {
        "models": {name: {"source": "dir:model", "num_blocks": 32} for name in names},
        "recipes": recipes,
        "evaluations": evaluations,
        "experiments": {"large": experiment},
    }


def snakemake(directory: Path, *arguments: str) -> tuple[dict[str, float], str]:
    """Run it; seconds of the clock and of the processor, and what it said."""
    path = f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--profile", str(ROOT / "config/profiles/default")]
    command += ["--configfile", str(directory / "large.json"), *arguments]
    before, start = _processor(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = {"clock": time.perf_counter() - start, "processor": _processor() - before}
    if done.returncode != 0:
        sys.exit(done.stderr[-3000:] + done.stdout[-3000:])
    return {name: round(value, 2) for name, value in seconds.items()}, done.stderr + done.stdout


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(models: int, warm: bool, repeats: int) -> dict[str, Any]:
    """Both, ``repeats`` times; the least counts."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "large.json").write_text(json.dumps(sweep(models)))
        (directory / "bin").mkdir()
        (directory / "model").mkdir()
        stub = directory / "bin" / "fusegpt"
        stub.write_text(STUB)
        stub.chmod(0o755)
        dry = ("--dry-run", "--quiet", "rules", "--cores", "2")
        runs = [snakemake(directory, *dry) for _ in range(repeats)]
        found = re.search(r"^total +(\d+)$", runs[0][1], re.MULTILINE)
        result: dict[str, Any] = {
            "models": models,
            "jobs": int(found[1]) if found else None,
            "cold": [seconds for seconds, _ in runs],
        }
        if warm:
            result["run"], _ = snakemake(directory, "--quiet", "all", "--cores", "4")
            runs = [snakemake(directory, "--cores", "2") for _ in range(repeats)]
            assert all("Nothing to be done" in said for _, said in runs), runs[0][1][-2000:]
            result["warm"] = [seconds for seconds, _ in runs]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="also run everything, and then nothing")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    result = measure(arguments.models, arguments.warm, arguments.repeats)
    result |= {"limits_seconds": LIMITS, "processors": os.cpu_count(), "load": os.getloadavg()[0]}
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    for name, limit in LIMITS.items():
        least = min((run["processor"] for run in result.get(name, [])), default=0.0)
        if least > limit:
            sys.exit(f"{name}: {least} s of processor time, more than {limit}")


if __name__ == "__main__":
    main()
