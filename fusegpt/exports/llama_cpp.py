"""What llama.cpp does with a file, in a process of its own: its packages must not meet ours.

Started by ``fusegpt.exports.tools``, which gives it one JSON object; it answers with another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any


def quantise(source: str, output: str, ftype: int, threads: int) -> None:
    """Write a GGUF file again with other types of weights."""
    from cyllama.llama import llama_cpp

    parameters = llama_cpp.LlamaModelQuantizeParams()
    parameters.ftype, parameters.nthread = ftype, threads
    llama_cpp.model_quantize(source, output, parameters)


def losses(model: str, windows: str, threads: int) -> dict[str, Any]:
    """Cross-entropy of each token of each window but the first, and the likeliest in its place."""
    import numpy as np
    from cyllama.llama import llama_cpp

    class Model(llama_cpp.LlamaModel):  # the package's own logits ask it for this
        n_vocab = property(lambda self: self.get_vocab().n_vocab)

    llama_cpp.disable_logging()
    ids = np.load(windows)
    parameters = llama_cpp.LlamaContextParams()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = ids.shape[1]
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.type_k = parameters.type_v = 0  # keys and values in float32
    context = llama_cpp.LlamaContext(Model(model, llama_cpp.LlamaModelParams()), parameters)
    batch = llama_cpp.LlamaBatch(n_tokens=ids.shape[1], embd=0, n_seq_max=1)
    found: dict[str, Any] = {"nats": [], "likeliest": []}
    for window in ids.tolist():
        batch.set_batch(window, 0, True)
        context.kv_cache_clear()
        context.decode(batch)
        seen = [_seen(context.get_logits_ith(at), token) for at, token in enumerate(window[1:])]
        found["nats"].append([nats for nats, _ in seen])
        found["likeliest"].append([token for _, token in seen])
    return found


def _seen(logits: Sequence[float], token: int) -> tuple[float, int]:
    import numpy as np

    values = np.asarray(logits, dtype=np.float64)
    return float(np.logaddexp.reduce(values) - values[token]), int(values.argmax())


TASKS: dict[str, Callable[..., Any]] = {"quantise": quantise, "losses": losses}

if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(TASKS[given.pop("task")](**given)))
