"""Texts to prompts of token ids, and label words to the tokens that stand for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fusegpt.data.tokens import encode
from fusegpt.errors import ConfigError, DataError
from fusegpt.evaluation.text_data import Texts, TextTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prompts", "Verbaliser"]


@dataclass(frozen=True)
class Prompts:
    """Prompts as token ids, each with its class.

    Attributes:
        ids: One list of ids for each prompt.
        classes: ``[prompts]`` int64.
    """

    ids: Sequence[Sequence[int]]
    classes: Tensor

    def batches(self, size: int, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield ids ``[batch, seq]`` filled up with 0, lengths ``[batch]``, classes ``[batch]``."""
        for start in range(0, len(order), size):
            places = order[start : start + size]
            rows = [torch.tensor(self.ids[place]) for place in places]
            lengths = torch.tensor([len(row) for row in rows])
            yield pad_sequence(rows, batch_first=True), lengths, self.classes[list(places)]


class Verbaliser:
    """A task's template and label words for one tokenizer.

    The word of a class is told by its first token; what all words begin with, such as a bare
    space, becomes the end of the prompt.

    Args:
        tokenizer: The model's tokenizer.
        task: Its template and words.
        where: Names the task in messages.

    Raises:
        DataError: Two words begin with the same token, or a word changes the prompt's tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: TextTask, where: str) -> None:
        self._tokenizer, self._task, self._where = tokenizer, task, where
        prompt = task.template.replace("{text}", "A text.")
        start = self._encode(prompt)
        ends = []
        for word in task.words.values():
            ids = self._encode(f"{prompt} {word}")
            if ids[: len(start)] != start or len(ids) == len(start):
                raise DataError(f"{where}: this tokenizer joins the word {word!r} with the prompt")
            ends.append(ids[len(start) :])
        shared = 0
        while len({tuple(end[: shared + 1]) for end in ends}) == 1 and shared + 1 < len(ends[0]):
            shared += 1
        self.lead = ends[0][:shared]
        self.tokens = [end[shared] if len(end) > shared else -1 for end in ends]
        for number, token in enumerate(self.tokens):
            if token in self.tokens[:number]:
                words = list(task.words.values())
                other = words[self.tokens.index(token)]
                raise DataError(
                    f"{where}: the words {other!r} and {words[number]!r} begin with the same token"
                    " of this tokenizer; choose others"
                )

    def prompts(self, texts: Texts, length: int) -> Prompts:
        """Put texts into the template, their ends cut off where a prompt would be too long.

        Raises:
            ConfigError: The template alone is longer than ``length`` tokens.
        """
        ids = [self._prompt(text, length) for text in texts.texts]
        return Prompts(ids, torch.tensor(texts.classes))

    def _prompt(self, text: str, length: int) -> list[int]:
        words = text.split(" ")
        while True:
            filled = self._task.template.replace("{text}", " ".join(words))
            ids = self._encode(filled) + self.lead
            over = len(ids) - length
            if over <= 0:
                return ids
            if len(words) == 1:
                raise ConfigError(f"length: {length} tokens do not hold {self._where}'s prompt")
            words = words[: max(1, len(words) - max(1, over // 4))]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = encode(self._tokenizer, text).tolist()
        return ids
