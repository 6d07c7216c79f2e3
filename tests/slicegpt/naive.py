"""SliceGPT by hand: the dense weights as they are, every signal projected onto P P^T.

Nothing of ``fusegpt`` is used. Norms keep their scales, no matrix is rotated, cut or fused, and the
stream keeps its dense size; what slicing does to it is the projection. Attention, rotary positions
and norms are written out. All in the weights' dtype, float64 in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, relu, silu


def logits(module, ids: Tensor, calibration: Tensor, width: int, *, slice_head: bool) -> Tensor:
    """The logits of ``ids`` after slicing on ``calibration``; both ``[batch, seq]``, seq equal."""
    forward = {"llama": _llama, "opt": _opt}[module.config.model_type]
    bases: list[Tensor] = []
    places = 2 * module.config.num_hidden_layers + 1

    def project(stream: Tensor) -> Tensor:
        """Find each basis on the calibration run, use it on the other."""
        place = next(counter)
        if place == places - 1 and not slice_head:
            return stream
        if len(bases) <= place:
            flat = stream.flatten(0, 1)
            values, vectors = torch.linalg.eig(flat.T @ flat)
            best = values.real.argsort(descending=True)[:width]
            bases.append(torch.linalg.qr(vectors.real[:, best])[0])
        return stream @ bases[place] @ bases[place].T

    counter = iter(range(places))
    forward(module, calibration, project)
    counter = iter(range(places))
    return forward(module, ids, project)


def _llama(module, ids: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    model, config = module.model, module.config
    eps, heads = config.rms_norm_eps, config.num_attention_heads
    stream = project(model.embed_tokens.weight[ids])
    for block in model.layers:
        at, mlp = block.self_attn, block.mlp
        x = _rms(stream, block.input_layernorm.weight, eps)
        q, k, v = (_heads(linear(x, p.weight), config.head_dim) for p in _qkv(at))
        q, k = _rotary(q, config.rope_parameters["rope_theta"]), _rotary(k, 10000.0)
        k, v = (t.repeat_interleave(heads // config.num_key_value_heads, 1) for t in (k, v))
        stream = project(stream + linear(_attend(q, k, v), at.o_proj.weight))
        x = _rms(stream, block.post_attention_layernorm.weight, eps)
        x = silu(linear(x, mlp.gate_proj.weight)) * linear(x, mlp.up_proj.weight)
        stream = project(stream + linear(x, mlp.down_proj.weight))
    return linear(_rms(stream, model.norm.weight, eps), module.lm_head.weight)


def _opt(module, ids: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    model, config = module.model.decoder, module.config
    places = torch.arange(ids.shape[1]) + 2  # OPT's positions begin at 2
    stream = project(_centre(model.embed_tokens.weight[ids] + model.embed_positions.weight[places]))
    for block in model.layers:
        at = block.self_attn
        x = _layer_norm(stream, block.self_attn_layer_norm)
        size = config.hidden_size // config.num_attention_heads
        q, k, v = (_heads(linear(x, p.weight, p.bias), size) for p in _qkv(at))
        x = linear(_attend(q, k, v), at.out_proj.weight, at.out_proj.bias)
        stream = project(_centre(stream + x))
        x = relu(
            linear(_layer_norm(stream, block.final_layer_norm), block.fc1.weight, block.fc1.bias)
        )
        stream = project(_centre(stream + linear(x, block.fc2.weight, block.fc2.bias)))
    return linear(_layer_norm(stream, model.final_layer_norm), module.lm_head.weight)


def _qkv(attention):
    return attention.q_proj, attention.k_proj, attention.v_proj


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def _layer_norm(x: Tensor, norm) -> Tensor:
    x = _centre(x)
    return norm.weight * x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() + norm.bias


def _heads(x: Tensor, size: int) -> Tensor:
    return x.unflatten(-1, (-1, size)).transpose(1, 2)  # [batch, heads, seq, size]


def _rotary(x: Tensor, theta: float) -> Tensor:
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * rates  # [seq, half]
    one, two = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((one * cos - two * sin, two * cos + one * sin), -1)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)
