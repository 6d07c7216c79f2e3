"""A small CLIP-style vision tower, trained to tell colours, shapes and digits."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel

from pictures import COLORS, DIGITS, SHAPES, SIZE, Picture, draw_pictures

__all__ = ["PATCH", "pixels", "probe", "train_tower"]

logger = logging.getLogger("fusegpt.small_llava")

PATCH = 8
BATCH = 64
LABELS = {"color": tuple(COLORS), "shape": SHAPES, "digit": DIGITS}
ABSENT = -100


class Probe(nn.Module):
    """The tower with a linear head for each kind of label, on the mean of the patch tokens."""

    def __init__(self) -> None:
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIZE,
            patch_size=PATCH,
            projection_dim=64,
        )
        self.tower = CLIPVisionModel(config)
        self.heads = nn.ModuleDict(
            {kind: nn.Linear(config.hidden_size, len(names)) for kind, names in LABELS.items()}
        )

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """Scores of every label ``[batch, labels]`` by kind; values ``[batch, 3, 32, 32]``."""
        tokens = self.tower(pixel_values=values).last_hidden_state[:, 1:]  # without the class token
        return {kind: head(tokens.mean(dim=1)) for kind, head in self.heads.items()}


def pixels(pictures: Sequence[Picture]) -> Tensor:
    """Pictures as ``[batch, 3, 32, 32]`` float32 in [-1, 1]."""
    stacked = np.stack([np.asarray(picture.image, dtype=np.float32) for picture in pictures])
    return torch.from_numpy(stacked / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def train_tower(steps: int) -> Probe:
    """Train tower and heads on fresh pictures; equal steps give equal weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Probe().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    seeds = np.random.RandomState(1)
    loss = torch.zeros(())
    for _ in tqdm(range(steps), desc="vision tower", disable=None):
        pictures = draw_pictures(BATCH, int(seeds.randint(2**31)), "training")
        scores, labels = model(pixels(pictures)), _labels(pictures)
        loss = torch.stack(
            [cross_entropy(scores[kind], labels[kind], ignore_index=ABSENT) for kind in LABELS]
        ).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    logger.info("vision tower: %d steps of %d pictures, loss %.3f", steps, BATCH, loss.item())
    return model.eval()


@torch.no_grad()
def probe(model: Probe, count: int = 600) -> dict[str, float]:
    """Accuracy by kind on fresh pictures with held-out digits."""
    pictures = draw_pictures(count, 9, "held_out")
    scores, labels = model(pixels(pictures)), _labels(pictures)
    found = {}
    for kind in LABELS:
        there = labels[kind] != ABSENT
        right = scores[kind].argmax(dim=-1)[there] == labels[kind][there]
        found[kind] = right.double().mean().item()
    return found


def _labels(pictures: Sequence[Picture]) -> dict[str, Tensor]:
    return {
        kind: torch.tensor(
            [names.index(p.labels[kind]) if kind in p.labels else ABSENT for p in pictures]
        )
        for kind, names in LABELS.items()
    }
