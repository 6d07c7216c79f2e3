"""Generated pictures with a question each: colours, shapes, and scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["COLORS", "DIGITS", "KINDS", "SHAPES", "SIZE", "Picture", "draw_pictures"]

SIZE = 32
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (40, 80, 230),
    "yellow": (230, 210, 40),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTIONS = {
    "color": "What color is it?",
    "shape": "What shape is it?",
    "digit": "Which digit is it?",
}
KINDS = tuple(QUESTIONS)
DIGIT_SHARE = 0.4
TRAINING_DIGITS = 1400


@dataclass(frozen=True)
class Picture:
    """One picture and what is asked about it.

    Attributes:
        image: 32 x 32, RGB.
        kind: What is asked: color, shape or digit.
        question: The question.
        answer: One word.
        labels: All there is to know: color, and shape or digit.
    """

    image: Image.Image
    kind: str
    question: str
    answer: str
    labels: Mapping[str, str]


def draw_pictures(
    count: int, seed: int, digits: Literal["training", "held_out"]
) -> Sequence[Picture]:
    """Draw pictures at random; equal arguments give equal pictures.

    Args:
        count: How many pictures.
        seed: Seed of everything that is drawn.
        digits: Which of scikit-learn's digits to take from.
    """
    draw = np.random.RandomState(seed)
    return [_picture(draw, digits) for _ in range(count)]


def _picture(draw: np.random.RandomState, digits: str) -> Picture:
    image = Image.new("RGB", (SIZE, SIZE), tuple(int(c) for c in draw.randint(0, 61, 3)))
    color = str(draw.choice(list(COLORS)))
    jitter = draw.randint(-20, 21, 3)
    paint = tuple(int(c) for c in np.clip(np.add(COLORS[color], jitter), 0, 255))
    if draw.rand() < DIGIT_SHARE:
        labels = {"color": color, "digit": _paste_digit(image, paint, draw, digits)}
        kind = str(draw.choice(["color", "digit", "digit"]))
    else:
        labels = {"color": color, "shape": _draw_shape(image, paint, draw)}
        kind = str(draw.choice(["color", "shape", "shape"]))
    return Picture(image, kind, QUESTIONS[kind], labels[kind], labels)


def _paste_digit(
    image: Image.Image, paint: tuple[int, ...], draw: np.random.RandomState, digits: str
) -> str:
    values, names = _digits()
    chosen = _digit_split()[digits]
    number = chosen[draw.randint(len(chosen))]
    mask = Image.fromarray((values[number] * 15.9).astype(np.uint8), mode=None)
    mask = mask.resize((24, 24), Image.Resampling.BILINEAR)
    x, y = (int(place) for place in draw.randint(0, 9, 2))
    image.paste(Image.new("RGB", mask.size, paint), (x, y), mask)
    return DIGITS[names[number]]


def _draw_shape(image: Image.Image, paint: tuple[int, ...], draw: np.random.RandomState) -> str:
    shape = str(draw.choice(SHAPES))
    width = int(draw.randint(14, 23))
    x, y = (int(place) for place in draw.randint(1, 32 - width, 2))
    third, pen = width // 3, ImageDraw.Draw(image)
    box = (x, y, x + width, y + width)
    if shape == "circle":
        pen.ellipse(box, fill=paint)
    elif shape == "square":
        pen.rectangle(box, fill=paint)
    elif shape == "triangle":
        pen.polygon([(x, y + width), (x + width, y + width), (x + width // 2, y)], fill=paint)
    else:
        pen.rectangle((x + third, y, x + 2 * third, y + width), fill=paint)
        pen.rectangle((x, y + third, x + width, y + 2 * third), fill=paint)
    return shape


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


@cache
def _digit_split() -> dict[str, np.ndarray]:
    order = np.random.RandomState(0).permutation(len(_digits()[1]))
    return {"training": order[:TRAINING_DIGITS], "held_out": order[TRAINING_DIGITS:]}
