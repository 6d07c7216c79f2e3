"""A checkpoint to the model hub, with its card; checked whole before anything is sent."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

import yaml

from fusegpt.errors import ArtifactError, DataError, first_line
from fusegpt.results import layout as at
from fusegpt.results.digests import without_digest
from fusegpt.results.models import Checkpoint, read_checkpoint

__all__ = ["check_checkpoint", "push"]

logger = logging.getLogger(__name__)

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
PLACE = '"PATH"'
"""What a card written before its repository is known says in its example."""


def check_checkpoint(directory: str | Path) -> list[Path]:
    """Return the files of a checkpoint that go to the hub; those and no others.

    Args:
        directory: What ``fusegpt merge``, ``fusegpt prune`` or ``fusegpt slice`` wrote.

    Raises:
        ArtifactError: It is no whole checkpoint, a file is not what the record says or could hold
            a pickle, or the card is missing or names no licence.
    """
    directory = Path(directory)
    record = directory / at.CHECKPOINT
    if not record.is_file():
        raise ArtifactError(f"{directory}: must be a checkpoint, {record.name} is missing")
    listed = read_checkpoint(record).files
    if not listed:
        raise ArtifactError(f"{record}: must list its files; merge again with this version")
    if not any(name.endswith(".safetensors") for name in listed):
        raise ArtifactError(f"{record}: must list weights as safetensors, got {sorted(listed)}")
    for name in listed:
        if PurePosixPath(name).name != name or name.endswith(PICKLES):
            raise ArtifactError(f"{directory / name}: may hold a pickle, which is never uploaded")
    for path in (directory / name for name in (*listed, at.CARD, record.name)):
        if path.is_symlink():
            raise ArtifactError(
                f"{path}: must be a plain file, is a link; put the file itself there"
            )
    _check_card(at.card_beside(record))
    for name, file in listed.items():
        file.check(directory / name)
    return [directory / name for name in (*listed, at.CARD, record.name)]


def _check_card(card: Path) -> None:
    if not card.is_file():
        raise ArtifactError(f"{card}: the card is missing; write it with fusegpt card")
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(card, ignore_metadata_errors=True)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{card}: front matter must be a table of keys and values ({first_line(error)})"
        ) from None
    if not found.data.license:
        raise ArtifactError(
            f"{card}: must name the base model's licence; give its entry in the configuration a"
            " licence, or put 'license: ...' into the card's front matter"
        )
    if not found.data.eval_results and "| task | metric |" not in found.text:
        logger.warning("%s: holds no results; fusegpt card adds those of evaluations", card)


def push(
    directory: str | Path, repo_id: str, *, private: bool = False, revision: str | None = None
) -> str:
    """Upload a checkpoint in one commit; the repository and the branch are made if need be.

    Where to: the environment's ``HF_ENDPOINT``, with its ``HF_TOKEN`` or the stored login.

    Args:
        directory: The checkpoint.
        repo_id: ``ORGANISATION/NAME`` or ``NAME``.
        private: Whether a repository that is made now is private; an older one stays as it is.
        revision: The branch; None: ``main``.

    Returns:
        The address of the commit.

    Raises:
        ArtifactError: The checkpoint cannot be published as it is; nothing was sent.
        DataError: The hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    files = check_checkpoint(directory)
    api = HfApi()
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision:
            api.create_branch(made.repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            made.repo_id,
            [CommitOperationAdd(file.name, _content(file, made.repo_id)) for file in files],
            commit_message=_message(read_checkpoint(Path(directory, at.CHECKPOINT))),
            revision=revision,
        )
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise DataError(f"{repo_id}: the hub did not take it: {_reason(error)}") from error
    except RuntimeError as error:  # one upload among several failed; its reason is the cause
        cause = error.__cause__ or error
        raise DataError(f"{repo_id}: the hub did not take it: {_reason(cause)}") from error
    return str(commit.commit_url)


def _content(file: Path, repo_id: str) -> Path | bytes:
    """Return the file, or the card with the repository's name in its example."""
    if file.name != at.CARD:
        return file
    text = without_digest(file.read_text(encoding="utf-8"))
    return text.replace(PLACE, f'"{repo_id}"').encode()


def _message(record: Checkpoint) -> str:
    name, removed = record.recipe_id or "checkpoint", len(record.removed)
    return f"{name}: {removed} of {record.num_blocks} removed" if removed else name


def _reason(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{status}, not allowed; log in with hf auth login, or set HF_TOKEN"
    text = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
