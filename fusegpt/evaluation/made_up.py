"""Small questions with one right answer, made up from a seed; no data are read."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["TASKS", "Question", "questions"]

WORDS = tuple(
    "apple river stone light green house table music paper water bread chair cloud dance earth"
    " field glass heart island jacket kitchen ladder mountain needle ocean pencil queen rabbit"
    " silver train window yellow anchor basket candle desert engine feather garden hammer iron"
    " jungle".split()
)
PAIRS = {"(": ")", "[": "]", "{": "}"}


class Question(NamedTuple):
    """What a model is given, solved examples included, and what it must write then."""

    prompt: str
    answer: str


def _copying(draw: random.Random) -> Question:
    words = " ".join(draw.choice(WORDS) for _ in range(8))
    return Question(f"Input: {words}\nOutput:", f" {words}\n")


def _looking_up(draw: random.Random) -> Question:
    names = draw.sample(WORDS, 4)
    numbers = [draw.randrange(10) for _ in names]
    said = ", ".join(f"{name} is {number}" for name, number in zip(names, numbers, strict=True))
    asked = draw.randrange(4)
    return Question(f"{said}. So {names[asked]} is", f" {numbers[asked]}\n")


def _adding(draw: random.Random) -> Question:
    one, other = draw.randrange(10), draw.randrange(10)
    return Question(f"{one} + {other} =", f" {one + other}\n")


def _closing(draw: random.Random) -> Question:
    opened = [draw.choice(list(PAIRS)) for _ in range(3)]
    closed = " ".join(PAIRS[one] for one in reversed(opened))
    return Question(f"Open: {' '.join(opened)}\nClose:", f" {closed}\n")


TASKS: dict[str, Callable[[random.Random], Question]] = {
    "copying": _copying,
    "looking_up": _looking_up,
    "adding": _adding,
    "closing": _closing,
}
"""Eight words again; one of four numbers by its word; sums of two digits; three brackets closed."""


def questions(task: str, count: int, shots: int, seed: int) -> list[Question]:
    """Return the questions of a task; fewer are the first of more.

    Args:
        task: Key of ``TASKS``.
        count: Number of questions.
        shots: Number of solved examples before each, made up like the question itself.
        seed: Seed of all of them.
    """
    found = []
    for number in range(count):
        draw = random.Random(f"{seed} {task} {number}")
        solved = "".join("".join(TASKS[task](draw)) for _ in range(shots))
        asked = TASKS[task](draw)
        found.append(Question(solved + asked.prompt, asked.answer))
    return found
