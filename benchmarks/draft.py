"""Speculative decoding with a pruned model as draft: what its dense model takes, and the speed.

    python benchmarks/draft.py MODEL PRUNED --tokens 64 --draft-tokens 4 --output draft.json

The dense model decodes greedily alone and with the draft, in turns. Both say the same tokens: a
draft changes the speed and nothing else. Each of its passes drafts one token, each pass of the
dense model takes the drafts that it agrees with and adds one of its own. Seconds are the
processor's, so that they hold on a machine that does other things as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, logging

PROMPTS = (
    "The capital of France is",
    "def mean(values):\n    ",
    "Water boils when",
    "In the middle of the night, she heard",
    "The three laws of thermodynamics state that",
    "Dear Sir or Madam,\n\n",
)


class Passes:
    """Counts the forward passes of a model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.count = 0
        model.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1


def decode(model: PreTrainedModel, ids: torch.Tensor, tokens: int, **how: Any) -> Any:
    """Return the new tokens of a prompt, and the processor's seconds that they took."""
    start = time.process_time()
    whole = model.generate(ids, max_new_tokens=tokens, do_sample=False, **how)
    return whole[0, ids.shape[1] :].tolist(), time.process_time() - start


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Decode every prompt both ways, ``--rounds`` times."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    target, draft = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (options.model, options.draft)
    )
    settings = draft.generation_config
    settings.num_assistant_tokens = options.draft_tokens
    settings.num_assistant_tokens_schedule = "constant"
    settings.assistant_confidence_threshold = 0.0
    prompts = [tokenizer(text, return_tensors="pt").input_ids for text in PROMPTS]
    decode(target, prompts[0], 2, assistant_model=draft)  # the first call is slower
    checked, drafted = Passes(target), Passes(draft)
    equal, made, alone, helped = 0, 0, [], []
    for _ in range(options.rounds):
        seconds = [0.0, 0.0]
        for ids in prompts:
            before = checked.count
            plain, took = decode(target, ids, options.tokens)
            checked.count = before
            seconds[0] += took
            faster, took = decode(target, ids, options.tokens, assistant_model=draft)
            seconds[1] += took
            equal += plain == faster
            made += len(faster)
        alone.append(seconds[0])
        helped.append(seconds[1])
    return {
        "accepted": round((made - checked.count) / drafted.count, 4),
        "tokens_per_dense_pass": round(made / checked.count, 3),
        "speedup": round(statistics.median(map(lambda a, b: a / b, alone, helped)), 3),
        "processor_seconds_alone": round(statistics.median(alone), 2),
        "processor_seconds_with_draft": round(statistics.median(helped), 2),
        "equal": f"{equal} of {len(PROMPTS) * options.rounds}",
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="Directory of the dense model.")
    parser.add_argument("draft", type=Path, help="Directory of the pruned one.")
    parser.add_argument("--tokens", type=int, default=64, help="New tokens of each prompt.")
    parser.add_argument("--draft-tokens", type=int, default=4, help="Tokens drafted at a time.")
    parser.add_argument("--rounds", type=int, default=3, help="How often all is done.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = measure(options)
    print(json.dumps(found))
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
