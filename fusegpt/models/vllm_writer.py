"""Texts by vLLM, where it is installed: faster than transformers on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fusegpt.data.generated import Generated
from fusegpt.data.starts import Start
from fusegpt.data.windows import draw
from fusegpt.errors import ConfigError

__all__ = ["vllm_writer"]

Write = Callable[[Sequence[Start], Sequence[int]], list[list[int]]]


def vllm_writer(directory: Path, settings: Generated, longest: int, ends: Sequence[int]) -> Write:
    """Load a model into vLLM and return what writes a batch of texts with it.

    Args:
        directory: The model's.
        settings: How texts are drawn.
        longest: Tokens of the longest text with what it goes on from.
        ends: Tokens that end an answer; none: texts run to their full length.

    Raises:
        ConfigError: vLLM is not installed.
    """
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            "generated.engine: 'vllm' must be installed, is not; pip install vllm, or say"
            " engine: transformers"
        ) from error
    engine = vllm.LLM(
        model=str(directory), dtype=settings.dtype, seed=settings.seed, max_model_len=longest
    )

    def write(starts: Sequence[Start], numbers: Sequence[int]) -> list[list[int]]:
        asked = [
            vllm.SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=draw(settings.seed, number) % 2**63,
                max_tokens=settings.length - len(start.ids),
                stop_token_ids=list(ends),
                ignore_eos=True,
                detokenize=False,
            )
            for start, number in zip(starts, numbers, strict=True)
        ]
        prompts = [{"prompt_token_ids": start.prompt} for start in starts]
        made = [one.outputs[0] for one in engine.generate(prompts, asked, use_tqdm=False)]
        return [list(one.token_ids) for one in made]

    return write
