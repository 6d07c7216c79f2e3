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
    with open(os.environ["STUB_LEDGER"], "a", encoding="utf-8") as ledger:
        ledger.write(f"{verb} {output}\n")
    files = {
        "fetch": [output / "source.json"],
        "start": [Path(flags.get("--recipe-output", output)), output],
        "fuse": [output / name for name in ("delta.safetensors", "training.json")],
        "merge": [output / "fusegpt.json"],
        "slice": [output / "fusegpt.json"],
        "table": [output, output.with_suffix(".json")],
    }.get(verb, [output])
    for file in files:
        write(file, arguments)
    hang = os.environ.get("STUB_HANG")
    if hang and verb == "fuse" and output.name == hang:
        Path(os.environ["STUB_LEDGER"]).with_name("hanging").touch()
        time.sleep(120)
    if verb == "fuse":
        write(output / "manifest.json", arguments)


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
