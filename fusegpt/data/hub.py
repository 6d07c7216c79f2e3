"""Files of the model hub at a pinned revision, from its cache or downloaded into it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from fusegpt.errors import ArtifactError, DataError, first_line

__all__ = ["dataset_file", "model_snapshot", "offline_reason"]

PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
ADVICE = "name a local file in the config's corpora, or use the corpus python_docs"
PATIENCE_SECONDS = 5.0


def dataset_file(repository: str, revision: str, name: str, advice: str = ADVICE) -> Path:
    """Return one file of a hub data set.

    The file alone, instead of the ``datasets`` library's whole split: one shard of C4 is 40 MB.

    Args:
        repository: Its name.
        revision: A commit.
        name: Name of the file.
        advice: What to do without a hub; the end of the message.

    Raises:
        DataError: The file is not in the cache and the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repository, name, revision=revision, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    what = f"{repository}/{name}"
    if reason := offline_reason():
        raise DataError(f"{what}: not in the hub's cache, and {reason}; {advice}")
    try:
        return Path(hf_hub_download(repository, name, revision=revision, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{what}: the hub did not give it ({first_line(error)}); {advice}"
        ) from error


def model_snapshot(repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the hub cache's folder of a model; its name is the commit.

    Raises:
        ArtifactError: The model is not in the cache and the hub cannot be reached, or refuses.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    what = f"{repository}@{revision or 'newest'}"
    reason = offline_reason()
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=["consolidated*", "*/*[!a]"],  # of folders, chat templates only
                local_files_only=bool(reason),
            )
        )
    except LocalEntryNotFoundError as error:
        why = reason or first_line(error)
        raise ArtifactError(f"{what}: not in the hub's cache, and {why}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ArtifactError(f"{what}: the hub did not give it ({first_line(error)})") from error


def offline_reason() -> str | None:
    """Why the hub cannot be asked, if so; its own client would retry for half a minute first."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if any(os.environ.get(name) for name in PROXIES):
        return None
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), timeout=PATIENCE_SECONDS).close()
    except OSError:
        return f"{constants.ENDPOINT} cannot be reached"
    return None
