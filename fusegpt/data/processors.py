"""The processor of an image-text model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusegpt.errors import ArtifactError, one_line

__all__ = ["load_processor"]


def load_processor(directory: Path) -> Any:
    """Load what turns text and images into a model's inputs.

    Args:
        directory: Of an image-text model.

    Raises:
        ArtifactError: It holds none that can be read, or a tokenizer only.
    """
    from transformers import AutoProcessor, ProcessorMixin

    try:
        processor = AutoProcessor.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # libraries have classes of their own for what they cannot read
        raise ArtifactError(f"{directory}: no readable processor ({one_line(error)})") from error
    if not isinstance(processor, ProcessorMixin):
        raise ArtifactError(
            f"{directory}: must hold an image-text model's processor, has a"
            f" {type(processor).__name__} only"
        )
    return processor
