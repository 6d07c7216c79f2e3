"""A stand-in for ``fusegpt``: writes what a verb would and notes every start in a ledger."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path


def main(verb: str, *arguments: str) -> None:
    flags = dict(zip(arguments[::2], arguments[1::2], strict=True))
    output = Path(flags["--output"])
    if verb == "evaluate":
        return evaluate(arguments, Path(flags["--model"]), Path(flags["--store"]))
    note(f"{'take' if '--dense-scores' in flags else verb} {output}")
    if os.environ.get("STUB_RAISE") == verb:  # another version gives other results
        arguments += ("raised",)
    files = {
        "fetch": [output / "source.json"],
        "start": [Path(flags.get("--recipe-output", output)), output],
        "fuse": [output / name for name in ("delta.safetensors", "training.json")],
        "merge": [output / "fusegpt.json"],
        "answers": [output / "answers.json"],
        "finish": [output / "fusegpt.json"],
        "slice": [output / "fusegpt.json"],
        "table": [output, output.with_suffix(".json")],
    }.get(verb, [output])
    for file in files:
        write(file, arguments)
    if verb == "fuse":
        hang(output.name)
        write(output / "manifest.json", arguments)


def evaluate(arguments: tuple[str, ...], model: Path, store: Path) -> None:
    """One line ``load`` for a process that measures anything, one ``evaluate`` for each result."""
    pairs = list(zip(arguments[::2], arguments[1::2], strict=True))
    entries = [value for name, value in pairs if name == "--evaluation"]
    outputs = [Path(value) for name, value in pairs if name == "--output"]
    records = [model / name for name in ("manifest.json", "source.json", "fusegpt.json")]
    read = b"".join(file.read_bytes() for file in records if file.is_file())
    loaded = False
    for entry, output in zip(entries, outputs, strict=True):
        assert entry.startswith(f"{output.stem}=")
        key = hashlib.sha256(entry.encode() + read).hexdigest()
        if not (store / key).exists():
            if not loaded:
                note(f"load {output.parent}")
            loaded = True
            hang(output.stem)
            note(f"evaluate {output}")
            store.mkdir(parents=True, exist_ok=True)
            (store / key).write_text(json.dumps(measured(key, output)), encoding="utf-8")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes((store / key).read_bytes())


def measured(key: str, output: Path) -> dict[str, object]:
    """A perplexity of 10 and one more for each step, in a record that can be read."""
    step = int(output.parent.name.removeprefix("step-").partition("sparsity")[0] or 0)
    row = {"task": "docs", "metric": "perplexity", "value": 10.0 + step, "unit": "1"}
    row |= {"higher_is_better": False, "num_samples": 1}
    model = {"num_blocks": 4, "kept": [], "parameters": 1}
    return {"key": key, "rows": [row], "model": model}


def note(line: str) -> None:
    with open(os.environ["STUB_LEDGER"], "a", encoding="utf-8") as ledger:
        ledger.write(f"{line}\n")


def hang(name: str) -> None:
    if os.environ.get("STUB_HANG") == name:
        Path(os.environ["STUB_LEDGER"]).with_name(f"hanging-{os.getpid()}").touch()
        time.sleep(600)


def write(file: Path, arguments: tuple[str, ...]) -> None:
    """Equal arguments and inputs give equal bytes, as with the real verbs."""
    digest = hashlib.sha256(repr(arguments).encode())
    for argument in arguments:
        if argument.endswith(".json") and Path(argument).is_file() and Path(argument) != file:
            digest.update(Path(argument).read_bytes())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"digest": digest.hexdigest()}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
