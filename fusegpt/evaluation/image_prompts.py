"""Questions about images: prompts, images and scores of each task, for lm-eval's task files."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusegpt.evaluation.answers import (
    LETTERS,
    chinese_blank,
    chinese_choice,
    chinese_judgement,
    choice,
    open_answer,
    vqa_accuracy,
    vqa_normal,
)

if TYPE_CHECKING:
    from PIL.Image import Image

Doc = Mapping[str, Any]

LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
PLACE = "<image>"
NUMBERED = re.compile(r"<(?:image|图片) (\d)>")


def one_image(doc: Doc) -> list[Image]:
    """The image of a question that has one."""
    return [_image(doc["image"])]


def plain_text(doc: Doc) -> str:
    """The prompt as it stands in the data."""
    text: str = doc["text"]
    return text


def plain_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """One word, right or wrong, without regard to case and punctuation."""
    said, wanted = (re.sub(r"[^\w]", "", text).lower() for text in (results[0], doc["answer"]))
    return {"exact_match": float(said == wanted)}


def mmmu_text(doc: Doc) -> str:
    """MMMU: the question with its images in place, options if there are, an instruction."""
    options = _options(doc)
    listed = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options))  # noqa: B905
    instruction = LETTER if options else SHORT
    return _placed(f"{doc['question']}{listed}\n\n{instruction}")


def mmmu_images(doc: Doc) -> list[Image]:
    """The images in the order in which the prompt names them."""
    named = NUMBERED.findall(" ".join([doc["question"], *_options(doc)])) or ["1"]
    return [_image(doc[f"image_{number}"]) for number in named]


def mmmu_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Accuracy: the letter, or an open answer."""
    options, answer = _options(doc), str(doc["answer"])
    if options:
        return {"acc": float(choice(results[0], options, str(doc["id"])) == answer)}
    right = ast.literal_eval(answer) if answer.startswith("[") else [answer]
    return {"acc": float(open_answer(results[0], right))}


CHINESE = {
    "选择": "请回答下面的选择题,给出正确选项的字母;可能有一个或多个正确选项。",
    "判断": "请判断下面的陈述是对还是错。",
    "填空": "请回答下面的填空题,给出最合适的答案。",
}


def cmmmu_text(doc: Doc) -> str:
    """CMMMU: an instruction by kind, the question with its images in place, options."""
    question = doc["question"]
    for number in range(1, 6):
        name = doc.get(f"image_{number}_filename")
        question = question.replace(f'<img="{name}">', f"<图片 {number}>")
    listed = ""
    if doc["type"] == "选择":
        options = zip(LETTERS, _chinese_options(doc))  # noqa: B905
        listed = "选项:\n" + "".join(f"({letter}) {option}\n" for letter, option in options)
    return _placed(f"{CHINESE[doc['type']]}\n\n问题:{question}\n{listed}正确答案:\n")


def cmmmu_images(doc: Doc) -> list[Image]:
    """The images in the order in which the prompt names them."""
    return [_image(doc[f"image_{number}"]) for number in _named(doc)]


def cmmmu_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Accuracy over choices, judgements and blanks."""
    response, answer, key = results[0], doc["answer"], str(doc["id"])
    if doc["type"] == "选择":
        return {"acc": float(chinese_choice(response, _chinese_options(doc), key) == answer)}
    if doc["type"] == "判断":
        return {"acc": float(chinese_judgement(response, key) == answer)}
    return {"acc": float(chinese_blank(response, answer))}


def ai2d_text(doc: Doc) -> str:
    """AI2D: the question, options by letter, an instruction."""
    listed = "".join(
        f"\n{letter}. {option}"
        for letter, option in zip(LETTERS, doc["options"])  # noqa: B905
    )
    return _placed(f"{doc['question']}{listed}\n{LETTER}")


def ai2d_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Exact match of the letter; the data give the answer's number."""
    said = choice(results[0], doc["options"], doc["question"])
    return {"exact_match": float(said == LETTERS[int(doc["answer"])])}


def gqa_text(doc: Doc) -> str:
    """GQA: the question and an instruction."""
    return _placed(f"{doc['question']}\n{SHORT}")


def gqa_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Exact match without regard to case and punctuation."""
    return plain_results(doc, results)


def ok_vqa_text(doc: Doc) -> str:
    """OK-VQA: the question and two instructions."""
    return _placed(f"{doc['question']}\n{UNANSWERABLE}\n{SHORT}")


def ok_vqa_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """VQA accuracy against the answers of ten people."""
    return {"exact_match": vqa_accuracy(vqa_normal(results[0]), doc["answers"])}


def _placed(text: str) -> str:
    """Mark where images go; in front when the text does not say."""
    placed = NUMBERED.sub(PLACE, text)
    return placed if PLACE in placed else f"{PLACE}\n{placed}"


def _named(doc: Doc) -> list[str]:
    names = {doc.get(f"image_{number}_filename"): str(number) for number in range(1, 6)}
    found = re.findall(r'<img="([^"]*)">', doc["question"])
    return [names[name] for name in found] or ["1"]


def _options(doc: Doc) -> list[str]:
    options = doc.get("options") or []
    return ast.literal_eval(options) if isinstance(options, str) else list(options)


def _chinese_options(doc: Doc) -> list[str]:
    return [doc[f"option{number}"] for number in range(1, 5)]


def _image(value: Any) -> Image:
    """An image as the ``datasets`` library gives it, or as bytes from a parquet file."""
    if isinstance(value, Mapping):
        from PIL import Image as images

        value = images.open(io.BytesIO(value["bytes"]))
    image: Image = value.convert("RGB")
    return image
