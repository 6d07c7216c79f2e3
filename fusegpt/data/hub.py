"""One file of a hub data set at a pinned revision."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from fusegpt.errors import DataError

__all__ = ["dataset_file"]

PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


def dataset_file(repository: str, revision: str, name: str) -> Path:
    """Return a file of a hub data set, from the hub's cache or downloaded into it.

    The file alone, instead of the ``datasets`` library's whole split: one shard of C4 is 40 MB.

    Raises:
        DataError: The hub cannot be reached and the file is not in the cache.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repository, name, revision=revision, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached)
    what = f"{repository}/{name}"
    if constants.HF_HUB_OFFLINE:
        raise DataError(f"{what}: not in the hub's cache, and HF_HUB_OFFLINE is set; {ADVICE}")
    if not _reachable(constants.ENDPOINT):
        raise DataError(f"{what}: {constants.ENDPOINT} cannot be reached; {ADVICE}")
    try:
        return Path(hf_hub_download(repository, name, revision=revision, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        line = str(error).strip().split("\n")[0]
        raise DataError(f"{what}: the hub did not give it ({line}); {ADVICE}") from error


ADVICE = "name a local file in the config's corpora, or use the corpus python_docs"


def _reachable(endpoint: str) -> bool:
    """Whether the hub's name resolves; asked first, because its client retries for half a minute.

    Behind a proxy the name need not resolve here.
    """
    if any(os.environ.get(name) for name in PROXIES):
        return True
    try:
        socket.getaddrinfo(urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True
