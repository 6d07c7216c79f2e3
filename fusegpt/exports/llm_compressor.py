"""What llm-compressor does with a model, in an environment of its own: it pins other versions.

Started by ``fusegpt.exports.gptq``, which gives it one JSON object.
"""

from __future__ import annotations

import json
import sys


def gptq(
    model: str, windows: str, output: str, bits: int, group: int, ignore: list[str], threads: int
) -> None:
    """Write a model with the matrices of its blocks rounded by GPTQ, in float32 otherwise."""
    import numpy as np
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    given = np.load(windows)
    columns = {"input_ids": given["ids"].tolist(), "attention_mask": given["mask"].tolist()}
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    weights = {"num_bits": bits, "type": "int", "symmetric": True}
    weights |= {"strategy": "group", "group_size": group}
    config = {"group_0": {"targets": ["Linear"], "weights": weights}}
    oneshot(
        model=whole,
        dataset=Dataset.from_dict(columns),
        recipe=GPTQModifier(config_groups=config, ignore=ignore),
        num_calibration_samples=len(given["ids"]),
        max_seq_length=given["ids"].shape[1],
        shuffle_calibration_samples=False,
        pipeline="sequential",
    )
    whole.save_pretrained(output, save_compressed=True)


if __name__ == "__main__":
    gptq(**json.load(sys.stdin))
