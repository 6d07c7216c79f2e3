"""Building the model of a transformers directory, with places for its weights or without."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel

from fusegpt.data.directories import (
    OWN_TYPES,
    check_listed,
    check_num_blocks,
    generation_settings,
    model_config,
)
from fusegpt.data.plain import check_plain
from fusegpt.errors import ArchitectureError, ArtifactError, first_line, one_line
from fusegpt.models.checkpoints.skeleton import without_memory
from fusegpt.models.model import Model
from fusegpt.models.sublayers import sublayer_classes
from fusegpt.models.weights import Places, own_memory
from fusegpt.results import layout
from fusegpt.results.base import read
from fusegpt.results.exports import Export
from fusegpt.results.models import read_checkpoint
from fusegpt.runtime import quiet, torch_dtype

__all__ = ["load_directory", "load_structure"]

logger = logging.getLogger(__name__)


def load_directory(
    path: Path, dtype: str | torch.dtype, trust_remote_code: bool, packed: bool
) -> tuple[Model, Places | None]:
    """Build the model of a directory.

    Args:
        path: A transformers directory; a checkpoint or an export of ours brings its numbering.
        dtype: The dtype of all weights.
        trust_remote_code: Run code that lies in the directory.
        packed: Take weights of few bits as well, which become plain ones.

    Returns:
        The model without memory, and where its weights are; or with all weights, and None, where
        transformers has to convert them.

    Raises:
        ArtifactError: Something is missing, corrupt, or does not belong together.
        ArchitectureError: transformers has no such model, or it does not predict tokens.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path}: must be a model directory or a step manifest, is not there")
    if not packed:
        check_plain(path)
    if not (path / "config.json").is_file():
        raise ArtifactError(f"{path}: must hold config.json or manifest.json, has neither")
    check_listed(path)
    generation_settings(path)  # transformers goes on without those that it cannot read
    dtype = torch_dtype(dtype) if isinstance(dtype, str) else dtype
    module, places = _module(path, dtype, trust_remote_code)
    if module.get_output_embeddings() is None:
        raise ArchitectureError(
            f"{path}: must be a model that predicts tokens, got {type(module).__name__}"
        )
    model = Model.dense(module.requires_grad_(False), source=path)
    record = layout.record_in(path)
    if record is not None and record.name in (layout.CHECKPOINT, layout.EXPORT):
        _number(model, record)
    return model, places


def load_structure(path: str | Path) -> Model:
    """Build a model from its config alone, on the meta device: no weights, no memory.

    Raises:
        ArtifactError: No readable config.json.
        ArchitectureError: transformers has no such model, or no list of blocks is found.
    """
    path = Path(path)
    check_plain(path)
    with quiet():
        config = model_config(path)
    decoder = config.get_text_config(decoder=True)
    check_num_blocks(getattr(decoder, "num_hidden_layers", 1), path)
    with quiet(), torch.device("meta"):
        module = _with_attention(path, config, lambda: _class(path, config, False)(config))
    return Model.dense(module.requires_grad_(False), source=path)


def _number(model: Model, path: Path) -> None:
    """Take over the dense numbering from a checkpoint or an export of ours."""
    record = read_checkpoint(path) if path.name == layout.CHECKPOINT else read(path, Export)
    kept, num_blocks = record.kept, record.num_blocks
    if len(kept) != len(model.kept) or sorted({*kept}) != kept or kept[-1] >= num_blocks:
        raise ArtifactError(
            f"{path}: kept must name {len(model.kept)} of {num_blocks} blocks in order, got {kept}"
        )
    model.kept, model.num_blocks, model.removed = kept, num_blocks, record.removed


def _module(
    path: Path, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[PreTrainedModel, Places | None]:
    with quiet():
        config = model_config(path, trust_remote_code=trust_remote_code)
    try:
        with quiet():
            cls = _class(path, config, trust_remote_code)
            module, info, places = _with_attention(
                path, config, lambda: _built(path, cls, config, dtype, trust_remote_code)
            )
    except torch.OutOfMemoryError:
        raise
    except (
        *(ArtifactError, OSError, ValueError, RuntimeError, ImportError, SafetensorError),
    ) as error:
        raise ArtifactError(f"{path}: cannot be loaded: {one_line(error)}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ArtifactError(
            f"{path}: {len(missing)} weights are missing, {missing[0]!r} first; config.json and "
            "the safetensors files do not belong together"
        )
    if info["unexpected_keys"]:
        extra = sorted(info["unexpected_keys"])
        logger.warning("%s: %d weights unused, %r first", path, len(extra), extra[0])
    return module, places


def _built(
    path: Path, cls: Any, config: PretrainedConfig, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[PreTrainedModel, dict[str, Any], Places | None]:
    """Build a model without memory; with all its weights where their places cannot be told."""
    if not _made_plain(config) and not trust_remote_code:
        found = without_memory(path, cls, config, dtype)
        if found is not None:
            return found
    options = {"config": config, "dtype": dtype, "use_safetensors": True}
    options |= {"local_files_only": True, "output_loading_info": True}
    options |= {"trust_remote_code": True} if trust_remote_code else {}
    module, info = cls.from_pretrained(path, **options)
    own_memory(module)
    return module, info, None


def _made_plain(config: PretrainedConfig) -> bool:
    """Let transformers make weights of few bits plain while it reads them, if these are such."""
    packed: Any = getattr(config, "quantization_config", None) or {}
    if packed.get("quant_method") != "compressed-tensors":
        return False
    config.quantization_config = {**packed, "dequantize": True}
    return True


def _with_attention(path: Path, config: PretrainedConfig, build: Callable[[], Any]) -> Any:
    """Build with the attention that the config asks for, or the default where that is absent."""
    asked = config._attn_implementation
    try:
        return build()
    except ImportError as error:
        if asked in (None, "eager", "sdpa"):
            raise
        logger.warning(
            "%s: attention by default, not by %s, which is not installed (%s)",
            *(path, asked, first_line(error)),
        )
        config._attn_implementation = None
        return build()


def _class(path: Path, config: PretrainedConfig, trust_remote_code: bool) -> Any:
    removed = getattr(config, "removed_sublayers", None)
    if removed:
        return sublayer_classes(removed["base_model_type"], removed["base_architecture"])[1]
    names = getattr(config, "architectures", None) or []
    if trust_remote_code and getattr(config, "auto_map", None):
        return transformers.AutoModelForCausalLM
    own = OWN_TYPES.get(config.model_type)
    if own is not None and [own.name] == names:
        return own.load()
    found = [getattr(transformers, name, None) for name in names]
    if len(found) != 1 or found[0] is None:
        raise ArchitectureError(
            f"{path}/config.json: architectures must name one model class of transformers "
            f"{transformers.__version__}, got {names}"
        )
    if config.is_encoder_decoder or not found[0].can_generate():
        raise ArchitectureError(
            f"{path}: must be a decoder that predicts the next token (...ForCausalLM or"
            f" ...ForConditionalGeneration of images and text), got {names[0]}"
        )
    return found[0]
