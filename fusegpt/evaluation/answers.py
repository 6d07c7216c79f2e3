# ruff: noqa: RUF001 - answers in Chinese have fullwidth punctuation
"""Scoring of free answers: choices, open answers, CMMMU's three kinds, and VQA accuracy.

Written anew after the benchmarks' published rules. Where those pick at random when an answer says
nothing, the pick here follows from the question's id, so that a score is reproducible; decision
D37 lists what else differs.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

__all__ = [
    "chinese_blank",
    "chinese_choice",
    "chinese_judgement",
    "choice",
    "open_answer",
    "vqa_accuracy",
    "vqa_normal",
]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice(response: str, options: Sequence[str], key: str) -> str:
    """The letter that an answer to a multiple-choice question names (MMMU, AI2D).

    A letter in brackets counts first, then a letter that stands alone, then the text of an
    option in an answer of more than five words; of several the last one named.

    Args:
        response: The model's answer.
        options: Texts of A, B, ...
        key: Decides when the answer names none; the question's id.
    """
    text = f" {response.strip().strip(',.!?;:')} "
    letters = LETTERS[: len(options)]
    places = {letter: text.rfind(f"({letter})") for letter in letters}
    if max(places.values()) < 0:
        places = {letter: _alone(text, letter) for letter in letters}
    if max(places.values()) < 0 and len(text.split()) > 5:
        lower = text.lower()
        places = {
            letter: lower.rfind(option.lower())
            for letter, option in zip(letters, options, strict=True)
        }
    if max(places.values()) < 0:
        return _pick(letters, key)
    return max(places, key=lambda letter: places[letter])


def open_answer(response: str, answers: Sequence[str]) -> bool:
    """Whether an open answer states one of the right ones (MMMU).

    Numbers must be equal to two decimals; text must contain the right text.
    """
    wanted = {value for answer in answers for value in _normal(answer)}
    parts = [part for part in re.split(r"\.\s(?=[A-Z])|\n", response.strip().lower()) if part]
    said = {value for part in parts for value in _normal(part)}
    said |= {round(number, 2) for part in parts for number in _numbers(part)}
    for value in said:
        if value in wanted:
            return True
        texts = [text for text in wanted if isinstance(text, str)]
        if isinstance(value, str) and any(text in f" {value} " for text in texts):
            return True
    return False


def chinese_choice(response: str, options: Sequence[str], key: str) -> str:
    """The letters that an answer names most often, in order; several may be right (CMMMU)."""
    letters = LETTERS[: len(options)]
    counts = Counter({letter: response.count(f"({letter})") for letter in letters})
    if not counts.total():
        counts = Counter({letter: response.count(letter) for letter in letters})
    if not counts.total():
        pairs = zip(letters, options, strict=True)
        counts = Counter({letter: response.count(text) for letter, text in pairs if text})
    if not counts.total():
        return _pick(letters, key)
    most = max(counts.values())
    return "".join(letter for letter in letters if counts[letter] == most)


NEGATIVE = ("不对", "错", "不正确", "不准确", "不合适", "否定")
POSITIVE = ("正确", "对", "准确", "肯定")
UNDECIDED = ("对错", "是否", "否正确", "或者", "正确性", "对不")


def chinese_judgement(response: str, key: str) -> str:
    """``对`` or ``错``: what an answer says of a statement (CMMMU)."""
    votes = 0
    for part in _conclusions(
        response, ("是", "为", "所以", "判断", "陈述", "说法", "答案", "结果")
    ):
        undecided = any(word in part for word in UNDECIDED) and "不对" not in part
        if not undecided and any(word in part for word in NEGATIVE):
            votes -= 1
        elif not undecided and any(word in part for word in POSITIVE):
            votes += 1
    if not votes:
        return _pick("对错", key)
    return "对" if votes > 0 else "错"


def chinese_blank(response: str, answer: str) -> bool:
    """Whether an answer fills the blank (CMMMU): an equal number, or little but the text."""
    marks = ("是", "为", "所以", "等于", "方案", "选择", "因此", "最后", "答案", "结果", "=")
    parts = _conclusions(response, marks)
    wanted = _number(answer)
    if wanted is not None:
        said = [number for part in parts for number in _numbers(part)]
        return any(round(number, 2) == round(wanted, 2) for number in said)
    return any(answer.strip() in part and len(part) <= len(answer) + 20 for part in parts)


def vqa_accuracy(response: str, answers: Sequence[str]) -> float:
    """VQA accuracy: for each answer left out, min(1, others that agree / 3); the mean of these."""
    said = vqa_normal(response)
    same = [vqa_normal(answer) == said for answer in answers]
    total = sum(same)
    return sum(min(1.0, (total - one) / 3) for one in same) / len(same)


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = {"a", "an", "the"}


def vqa_normal(text: str) -> str:
    """Lower case, number words as digits, no articles, no apostrophes, no punctuation."""
    text = re.sub(r"(?<=\d),(?=\d)", "", text.lower().strip())
    text = text.replace("'", "").replace("’", "")
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    text = re.sub(r"[^\w\s.:$%]", " ", text)
    words = (WORDS.get(word, word) for word in text.split())
    return " ".join(word for word in words if word not in ARTICLES)


def _pick(letters: str, key: str) -> str:
    digest = hashlib.sha256(key.encode()).digest()
    return letters[int.from_bytes(digest[:8], "big") % len(letters)]


def _alone(text: str, letter: str) -> int:
    found = [match.start() for match in re.finditer(rf"(?<=\s){letter}(?=[\s.,:;)])", text)]
    return found[-1] if found else -1


def _normal(text: str) -> list[str | float]:
    number = _number(text)
    if number is not None:
        return [round(number, 2)]
    text = text.strip().lower()
    return [f" {text} "] if len(text) == 1 else [text] if text else []


def _number(text: str) -> float | None:
    try:
        return float(text.strip().replace(",", ""))
    except ValueError:
        return None


def _numbers(text: str) -> list[float]:
    pattern = r"-?(?:\d{1,3}(?:[,，]\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:[eE][+-]?\d+)?"
    found = (re.sub("[,，]", "", number) for number in re.findall(pattern, text))
    return [value for value in map(_number, found) if value is not None]


def _conclusions(response: str, marks: Sequence[str]) -> list[str]:
    """What follows the last mark of each sentence; all of an answer without marks."""
    found = []
    for sentence in re.split(r"[。\n]", response.strip("。 \n")):
        places = [sentence.rfind(mark) + len(mark) for mark in marks if mark in sentence]
        rest = sentence[max(places) :].strip(" :：，,") if places else ""
        if rest:
            found.append(rest)
    return found or [response.strip("。 \n")]
