"""GGUF files to plain transformers directories."""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusegpt.errors import ArtifactError, ConfigError, first_line
from fusegpt.runtime import quiet, torch_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["convert"]


def convert(
    path: Path,
    directory: Path,
    *,
    dtype: str = "bfloat16",
    config: Mapping[str, Any] | None = None,
    split_digits: bool = False,
) -> None:
    """Write a GGUF file's model, tokenizer and generation config as a transformers directory.

    Args:
        path: The GGUF file.
        directory: An existing directory, filled on return.
        dtype: What the de-quantised weights are stored in.
        config: Values laid over the model's configuration.
        split_digits: The model's tokenizer splits numbers into digits (GGUF files name it by
            ``tokenizer.ggml.pre``, which transformers' reader ignores).

    Raises:
        ArtifactError: transformers cannot read the file.
        ConfigError: ``config`` names a key that the configuration has not.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        # de-quantise in float32: half-precision arithmetic would round scale times code twice
        with _quiet(), _read_once():
            loaded = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, NotImplementedError, ImportError) as error:
        raise ArtifactError(
            f"{path.name}: transformers cannot read this GGUF ({first_line(error)})"
        ) from error
    model = _plain_model(loaded, config or {})
    del loaded  # or its float32 weights would outlive their rounding
    model.to(torch_dtype(dtype))
    if split_digits:
        _split_digits(tokenizer)
    if tokenizer.model_max_length > model.config.max_position_embeddings:
        tokenizer.model_max_length = model.config.max_position_embeddings
    with _quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    for weights in directory.glob("*.safetensors"):  # written readable by their owner alone
        shutil.copymode(directory / "config.json", weights)


def _plain_model(loaded: PreTrainedModel, overrides: Mapping[str, Any]) -> PreTrainedModel:
    """Put the weights, not copied, into a model of the same class that was never quantised.

    A model read from GGUF refuses to be saved.
    """
    from transformers.initialization import no_init_weights

    config = loaded.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        config.__dict__.pop(name, None)
    config.name_or_path = ""
    config.__dict__.pop("_model_name_or_path", None)
    for name, value in {**_decimals(config.to_dict()), **overrides}.items():
        if not hasattr(config, name):
            raise ConfigError(f"config.{name}: no such key in a {config.model_type} configuration")
        setattr(config, name, value)
    with no_init_weights():  # all of them are replaced
        plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    return plain.eval()


def _decimals(config: Mapping[str, Any]) -> dict[str, float]:
    """The floats a GGUF stored in 32 bits, as the decimals they were: 9.9999997e-06 -> 1e-05."""
    import numpy as np

    short = {k: float(str(np.float32(v))) for k, v in config.items() if isinstance(v, float)}
    return {k: v for k, v in short.items() if v != config[k] and np.float32(v) == config[k]}


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


@contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers share one header among config, tokenizer and weights.

    It would read the header for each, and make the table of tensor names for each module.
    """
    import gguf

    own = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    vars(gguf).update({name: functools.cache(function) for name, function in own.items()})
    try:
        yield
    finally:
        vars(gguf).update(own)


@contextmanager
def _quiet() -> Iterator[None]:
    """No remarks and no progress bars inside; the reader's own bar asks nobody."""
    with quiet(), redirect_stderr(io.StringIO()):
        yield
