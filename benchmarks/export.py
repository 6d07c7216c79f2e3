"""Does a checkpoint run elsewhere, unchanged: through llama.cpp's converter, and in vLLM?

    python benchmarks/export.py CHECKPOINT --tools TOOLS --output checkpoint.gguf
    python benchmarks/export.py CHECKPOINT --vllm ENVIRONMENT/bin/python

TOOLS is a folder with the packages that ``make test-export`` names. llama.cpp's converter runs as
it is, in a process of its own. What it wrote is read back with the `gguf` package and compared with
the checkpoint, value by value. Then each runtime continues some prompts greedily, its tokenizer
included, and so does plain transformers, in a process that cannot import fusegpt: ids must agree,
and the probabilities are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def add(a, b):\n    return",
)
TOKENS = 16
OUTTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def convert(checkpoint: Path, tools: Path, output: Path, outtype: str | None = None) -> str:
    """Run the converter; returns the type it wrote, by default the checkpoint's own."""
    outtype = outtype or OUTTYPES[_config(checkpoint).get("dtype") or "float32"]
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(checkpoint)]
    _run([*command, "--outfile", str(output), "--outtype", outtype], tools)
    return outtype


def _config(checkpoint: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return config


def read_back(checkpoint: Path, output: Path) -> dict[str, Any]:
    """What the file says of itself, and how many of the checkpoint's tensors are in it, equal."""
    import gguf
    import torch
    from safetensors import safe_open

    reader = gguf.GGUFReader(output)
    architecture = reader.fields["general.architecture"].contents()
    blocks = reader.fields[f"{architecture}.block_count"].contents()
    heads = [
        reader.fields[f"{architecture}.attention.{name}"].contents()
        for name in ("head_count", "head_count_kv")
    ]
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, blocks)
    there = {tensor.name: tensor for tensor in reader.tensors}
    different = []
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
                weight = tensors.get_tensor(name).float()
                if architecture == "llama" and ".attn_q." in str(theirs):
                    weight = rotary_order(weight, heads[0])
                if architecture == "llama" and ".attn_k." in str(theirs):
                    weight = rotary_order(weight, heads[1])
                found = there.pop(theirs, None)
                values = None if found is None else gguf.dequantize(found.data, found.tensor_type)
                if values is None or not torch.equal(torch.from_numpy(values.copy()), weight):
                    different.append(name)
    return {
        "architecture": architecture,
        "blocks": blocks,
        "blocks_of_checkpoint": _config(checkpoint)["num_hidden_layers"],
        "tensors": len(reader.tensors),
        "different": different + sorted(there),
    }


def rotary_order(weight: Any, heads: int) -> Any:
    """The row order of llama.cpp's rotary embedding: pairs side by side instead of halves."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def llama_cpp(file: str, prompts: list[str], tokens: int) -> list[dict[str, Any]]:
    """Greedy continuations by llama.cpp: ids, and the logarithm of each one's probability."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx = 256
    parameters.warmup = False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)
    answers = []
    for prompt in prompts:
        request = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 1}
        (choice,) = server.handle_completions(request)["choices"]
        steps = choice["logprobs"]["content"]
        answers.append(
            {
                "text": choice["text"],
                "ids": [step["id"] for step in steps],
                "logprobs": [step["logprob"] for step in steps],
            }
        )
    return answers


def vllm(checkpoint: str, prompts: list[str], tokens: int) -> list[dict[str, Any]]:
    """The same by vLLM, from the checkpoint itself."""
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    model = LLM(checkpoint, dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=4)
    asked = SamplingParams(temperature=0, max_tokens=tokens, logprobs=1, ignore_eos=True)
    answers = []
    for answer in model.generate(prompts, asked, use_tqdm=False):
        (said,) = answer.outputs
        logprobs = [step[i].logprob for i, step in zip(said.token_ids, said.logprobs, strict=True)]
        answers.append({"text": said.text, "ids": list(said.token_ids), "logprobs": logprobs})
    return answers


def transformers(checkpoint: str, prompts: list[str], tokens: int) -> list[dict[str, Any]]:
    """The same by transformers in float32, without any code of this project."""
    sys.modules["fusegpt"] = None  # type: ignore[assignment]  # any import of it fails from here
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        start = ids.shape[1]
        logprobs = []
        for _ in range(tokens):
            with torch.no_grad():
                last = model(ids).logits[0, -1].log_softmax(-1)
            logprobs.append(float(last.max()))
            ids = torch.cat([ids, last.argmax().reshape(1, 1)], dim=1)
        new = ids[0, start:].tolist()
        answers.append({"text": tokenizer.decode(new), "ids": new, "logprobs": logprobs})
    return answers


def compare(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """How many tokens agree, up to the first difference, and how sure both are of them."""
    same, total, gap = 0, 0, 0.0
    for ours, other in zip(mine, theirs, strict=True):
        total += len(other["ids"])
        for a, b, x, y in zip(
            ours["ids"], other["ids"], ours["logprobs"], other["logprobs"], strict=False
        ):
            if a != b:
                break
            same, gap = same + 1, max(gap, abs(x - y))
    return {
        "tokens": total,
        "same": same,
        "largest_logprob_difference": round(gap, 6),
        "texts": [answer["text"] for answer in mine],
    }


def check_gguf(
    checkpoint: Path, tools: Path, output: Path, outtype: str | None = None
) -> dict[str, Any]:
    """Convert, read back, and continue the prompts with llama.cpp."""
    result: dict[str, Any] = {"outtype": convert(checkpoint, tools, output, outtype)}
    result |= read_back(checkpoint, output)
    return result | compare(ask("llama_cpp", output, tools=tools), ask("transformers", checkpoint))


def check_vllm(checkpoint: Path, python: str) -> dict[str, Any]:
    """Continue the prompts with vLLM; ``python``: the interpreter of its environment."""
    return compare(ask("vllm", checkpoint, python), ask("transformers", checkpoint))


def ask(
    side: str, path: Path, python: str = sys.executable, tools: Path | None = None
) -> list[dict[str, Any]]:
    """What one of ``SIDES`` says, in a process of its own."""
    command = [python, str(Path(__file__).resolve()), str(path), "--side", side]
    answers: list[dict[str, Any]] = json.loads(_run(command, tools).splitlines()[-1])
    return answers


def _run(command: list[str], tools: Path | None) -> str:
    """Run it; ``tools`` goes before every other package, the converter's own gguf included."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tools or "")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:4])}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tools", type=Path, help="where pip put the converter and llama.cpp")
    parser.add_argument("--output", type=Path, default=Path("checkpoint.gguf"))
    parser.add_argument("--outtype", choices=sorted(OUTTYPES.values()), help="by default its own")
    parser.add_argument("--vllm", help="the interpreter of an environment with vLLM")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(SIDES[given.side](str(given.checkpoint), list(PROMPTS), TOKENS)))
        return
    checkpoint = given.checkpoint.resolve()
    results: dict[str, Any] = {}
    if given.tools:
        tools = given.tools.resolve()
        results["gguf"] = check_gguf(checkpoint, tools, given.output.resolve(), given.outtype)
    if given.vllm:
        results["vllm"] = check_vllm(checkpoint, given.vllm)
    print(json.dumps(results, indent=1))
    if any(r.get("different") or r["same"] != r["tokens"] for r in results.values()):
        sys.exit("it does not say elsewhere what it says in transformers")


SIDES = {"llama_cpp": llama_cpp, "transformers": transformers, "vllm": vllm}

if __name__ == "__main__":
    main()
