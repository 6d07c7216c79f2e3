"""Make perplexity.json by an independent route: make_perplexity.py MODEL_DIR RAW_TEST.parquet.

Nothing of fusegpt: pandas reads the rows, transformers gives all logits of a window at once in
float64, and the cross-entropy is written out.
"""

import json
import math
import sys
from pathlib import Path

import pandas
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CASES = [(4, 256), (20, 1024)]


def main(directory: str, rows: str) -> None:
    text = "\n\n".join(pandas.read_parquet(rows)["text"])
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    values = {f"{count}x{length}": measure(model, ids, count, length) for count, length in CASES}
    target = Path(__file__).with_name("perplexity.json")
    target.write_text(json.dumps({"tokens": len(ids), **values}, indent=1) + "\n")


@torch.no_grad()
def measure(model, ids: torch.Tensor, count: int, length: int) -> float:
    total = 0.0
    for i in range(count):
        window = ids[i * length : (i + 1) * length]
        logits = model(window[None]).logits[0, :-1]
        right = logits.gather(1, window[1:, None])[:, 0]
        total += (logits.logsumexp(dim=1) - right).mean().item() * length
    return math.exp(total / (count * length))


if __name__ == "__main__":
    main(*sys.argv[1:])
