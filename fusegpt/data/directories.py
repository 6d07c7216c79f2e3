"""What lies in a plain transformers directory, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusegpt.artifacts import read_json, sha256
from fusegpt.errors import ArtifactError, one_line
from fusegpt.registry import Entry
from fusegpt.results import layout
from fusegpt.results.base import read
from fusegpt.results.files import Listing
from fusegpt.runtime import remote_code_is_allowed
from fusegpt.tensor_files import read_header

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = [
    "OWN_TYPES",
    "SINGLE",
    "check_listed",
    "check_num_blocks",
    "count_parameters",
    "file_marks",
    "generation_settings",
    "model_config",
    "register_own_type",
    "text_config",
    "weight_files",
]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
GENERATION = "generation_config.json"
MOST_BLOCKS = 10_000
OWN_TYPES: dict[str, Entry] = {
    "fusegpt_sliced": Entry("fusegpt.slicegpt.modeling:SlicedForCausalLM"),
    "fusegpt_shared": Entry("fusegpt.sharing.modeling:SharedForCausalLM"),
}
"""Model types of ours: importing the module makes the auto classes of transformers know them."""


def register_own_type(directory: Path) -> bool:
    """Let transformers know the model type of a directory, if it is one of ours.

    Returns:
        Whether it is.
    """
    try:
        config = read_json(Path(directory) / "config.json")
    except ArtifactError:  # whoever loads the model says what is wrong with it
        return False
    said = config.get("model_type") if isinstance(config, dict) else None
    entry = OWN_TYPES.get(said) if isinstance(said, str) else None
    if entry is not None:
        entry.load()
    return entry is not None


def file_marks(model: Path) -> list[list[str | int]]:
    """Return what tells a model from another in its place, without reading its weights.

    Args:
        model: A directory, or the record of a model.

    Returns:
        Names, sizes and times of the weight files, and names and digests of the small ones.
    """
    found: list[list[str | int]] = []
    for file in sorted(model.glob("*") if model.is_dir() else [model]):
        if file.suffix == ".safetensors":
            status = file.stat()
            found.append([file.name, status.st_size, status.st_mtime_ns])
        elif file.suffix == ".json":
            found.append([file.name, sha256(file)])
    return found


def text_config(directory: Path) -> PretrainedConfig:
    """The decoder's part of a directory's configuration.

    Raises:
        ArtifactError: No config.json, or one that transformers does not know.
    """
    found = model_config(directory, trust_remote_code=remote_code_is_allowed())
    found = found.get_text_config(decoder=True)
    check_num_blocks(getattr(found, "num_hidden_layers", 1), directory)
    return found


def model_config(directory: Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """A directory's configuration, as transformers reads it.

    Raises:
        ArtifactError: No config.json, or one that transformers does not know.
    """
    if not (Path(directory) / "config.json").is_file():
        raise ArtifactError(f"{directory}: no config.json here; not a transformers directory")
    from transformers import AutoConfig

    register_own_type(directory)
    try:
        return AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # transformers has classes of its own for values of a wrong type
        raise ArtifactError(
            f"{directory}: config.json cannot be read ({one_line(error)})"
        ) from error


def generation_settings(directory: Path) -> dict[str, Any] | None:
    """What a directory says of generation; None: nothing in a file of its own.

    Raises:
        ArtifactError: The file is no table, or a token that ends texts in it is none.
    """
    file = Path(directory) / GENERATION
    if not file.is_file():
        return None
    found = read_json(file)
    if not isinstance(found, dict):
        raise ArtifactError(f"{file}: must be a table of settings, got {str(found)[:40]!r}")
    ends = found.get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    if ends is not None and not all(type(end) is int for end in listed):
        raise ArtifactError(
            f"{file}: eos_token_id must be the number of a token or several, got {ends!r:.80}"
        )
    return found


def check_num_blocks(count: object, directory: Path) -> None:
    """Refuse a number of blocks that no model has, before anything is built from it.

    Raises:
        ArtifactError: It is no whole number from 1 to 10,000.
    """
    if type(count) is not int or not 1 <= count <= MOST_BLOCKS:
        raise ArtifactError(
            f"{directory}: num_hidden_layers of config.json must be a whole number from 1 to"
            f" {MOST_BLOCKS}, got {str(count)[:40]!r}"
        )


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that hold a directory's weights; others beside them do not count.

    Raises:
        ArtifactError: There are none, or one that the index names is missing.
    """
    index = Path(directory) / INDEX
    names = {SINGLE}
    if index.is_file():
        names = _named_by(index)
    paths = [Path(directory) / name for name in sorted(names)]
    if missing := [path.name for path in paths if not path.is_file()]:
        hint = "pickled weights are not read" if missing == [SINGLE] else f"{INDEX} names it"
        raise ArtifactError(f"{directory}: no {missing[0]} here; {hint}")
    return paths


def _named_by(index: Path) -> set[str]:
    """The weight files that an index names; all lie beside it."""
    found = read_json(index)
    table = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(table, dict) or not table:
        raise ArtifactError(f"{index}: must have a table weight_map, got none; fetch it again")
    for name in table.values():
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise ArtifactError(
                f"{index}: must name files beside it, got {name!r:.80}; do not use this model"
            )
    return set(table.values())


def check_listed(directory: Path) -> None:
    """Compare a model's files with its record and with themselves, before their values are read.

    Sizes are those of the record, and safetensors files as long as their headers say. The
    configuration of a fetched model is compared by checksum; ``fusegpt verify`` does that with all.

    Raises:
        ArtifactError: A file is missing or another one; the message names it.
    """
    record = layout.record_in(directory)
    listed = {} if record is None else read(record, Listing).files
    fetched = record is not None and record.name == layout.SOURCE
    for name, about in listed.items():
        about.check(Path(directory) / name, whole=fetched and name == layout.CONFIG)
    for path in sorted(Path(directory).glob("*.safetensors")):
        count_parameters(path)


def count_parameters(path: Path) -> int:
    """Values stored in a safetensors file, from its header.

    Raises:
        ArtifactError: The file is shorter or longer than its header says.
    """
    header = read_header(path)
    if header.end != header.size:
        raise ArtifactError(
            f"{path}: must have {header.end} bytes, has {header.size}; fetch it again"
        )
    return sum(place.count for place in header.tensors.values())
