"""Training the small image-text model to answer questions in one word, and measuring it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from assembly import IMAGE_TOKEN, IMAGE_TOKENS
from pictures import KINDS, Picture, draw_pictures
from tower import pixels

__all__ = ["accuracy", "prompt", "train_answering"]

logger = logging.getLogger("fusegpt.small_llava")

RANK, ALPHA = 8, 16
ADAPTED = ("q_proj", "v_proj", "o_proj")
BATCH = 16
WARM_UP = 10
IGNORED = -100


class Adapted(nn.Module):
    """A frozen linear map with a low-rank update: ``W x + (alpha / r) B A x``; B starts at zero."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.empty(RANK, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, values: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        return self.linear(values) + (ALPHA / RANK) * (values @ self.down.T) @ self.up.T

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Add the update to the linear map and return it."""
        self.linear.weight += (ALPHA / RANK) * self.up @ self.down
        return self.linear


def prompt(question: str) -> str:
    """What stands before the answer."""
    return f"{IMAGE_TOKEN}\nQuestion: {question} Answer:"


def train_answering(model: Any, tokenizer: Any, steps: int) -> list[float]:
    """Train the projector and a low-rank update of the decoder, then merge the update.

    Args:
        model: The assembled LLaVA, float32; changed in place.
        tokenizer: With the image token.
        steps: Optimiser steps of 16 pictures.

    Returns:
        The loss of each step.
    """
    model.requires_grad_(False).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = _adapt(model.model.language_model)
    trained = [p for wrapper in adapted for p in (wrapper.down, wrapper.up)]
    trained += list(model.model.multi_modal_projector.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    seeds, losses = np.random.RandomState(5), []
    for step in tqdm(range(steps), desc="answering", disable=None):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * _factor(step, steps)
        pictures = draw_pictures(BATCH, int(seeds.randint(2**31)), "training")
        logits, wanted = _answer_logits(model, tokenizer, pictures)
        loss = cross_entropy(logits.float(), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 10 == 0:
            logger.info("answering: step %d/%d, loss %.3f", step + 1, steps, losses[-1])
    _merge(model.model.language_model)
    model.requires_grad_(False).eval()
    return losses


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, pictures: Sequence[Picture]) -> dict[str, float]:
    """Share of answers whose every token but EOS is the most likely one, by kind and in all."""
    right: dict[str, list[bool]] = {kind: [] for kind in (*KINDS, "all")}
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        logits, wanted = _answer_logits(model, tokenizer, batch)
        hits = (logits.argmax(dim=-1) == wanted) | (wanted == tokenizer.eos_token_id)
        lengths = (_batch(tokenizer, batch)[2] != IGNORED).sum(dim=1).tolist()
        for picture, found in zip(batch, hits.split(lengths), strict=True):
            for kind in (picture.kind, "all"):
                right[kind].append(bool(found.all()))
    return {kind: sum(hits) / max(1, len(hits)) for kind, hits in right.items()}


def _answer_logits(
    model: Any, tokenizer: Any, pictures: Sequence[Picture]
) -> tuple[Tensor, Tensor]:
    """Logits at the places of all answer tokens ``[places, vocab]``, and those tokens."""
    ids, mask, labels = _batch(tokenizer, pictures)
    hidden = model.model(
        input_ids=ids, attention_mask=mask, pixel_values=pixels(pictures), use_cache=False
    ).last_hidden_state  # [batch, seq, hidden]
    asked = labels[:, 1:] != IGNORED
    return model.lm_head(hidden[:, :-1][asked]), labels[:, 1:][asked]


def _batch(tokenizer: Any, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels ``[batch, seq]``, padded on the left with EOS."""
    end, rows = tokenizer.eos_token_id, []
    for picture in pictures:
        text = prompt(picture.question).replace(IMAGE_TOKEN, IMAGE_TOKEN * IMAGE_TOKENS)
        asked = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = tokenizer(f" {picture.answer}", add_special_tokens=False)["input_ids"]
        rows.append((asked, [*answer, end]))
    length = max(len(asked) + len(answer) for asked, answer in rows)
    ids = torch.full((len(rows), length), end)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, (asked, answer) in enumerate(rows):
        used = len(asked) + len(answer)
        ids[row, length - used :] = torch.tensor([*asked, *answer])
        mask[row, length - used :] = 1
        labels[row, length - len(answer) :] = torch.tensor(answer)
    return ids, mask, labels


def _factor(step: int, steps: int) -> float:
    """Ten steps of warm-up times a half cosine from 1 to 0.05."""
    fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARM_UP) * fall


def _adapt(decoder: nn.Module) -> list[Adapted]:
    found = []
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if name in ADAPTED and isinstance(child, nn.Linear):
                found.append(Adapted(child))
                setattr(parent, name, found[-1])
    return found


def _merge(decoder: nn.Module) -> None:
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Adapted):
                setattr(parent, name, child.merge())
