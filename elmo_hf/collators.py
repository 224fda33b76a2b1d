"""Data collators for tasks that those of Transformers do not cover."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.data.data_collator import DataCollatorMixin
from transformers.utils import PaddingStrategy

LABEL_NAMES = ("label", "labels")


@dataclass
class ElmoDataCollatorForMultipleChoice(DataCollatorMixin):
    """Collator that pads the choices of a batch of questions to one length, for `ElmoForMultipleChoice`.

    It replaces `DataCollatorForMultipleChoice`, which would flatten the rows of characters of a text.

    An example has one entry per choice under each name that the tokenizer returns, for example
    `tokenizer([question] * len(answers), answers)`, and optionally a `label` or `labels`, the number of the correct
    choice.

    Args:
        tokenizer: the tokenizer, which pads on its own side.
        padding: as in `tokenizer.pad`: `True` for the longest text of the batch, or `"max_length"`.
        max_length: number of words of every text with `padding="max_length"`.
        pad_to_multiple_of: round the number of words up to a multiple.
        return_tensors: `"pt"` or `"np"`.

    Returns:
        `input_ids` and `attention_mask` (batch, choices, words), `character_ids` (batch, choices, words, characters),
        all int64, and `labels` (batch,), int64.

    Raises:
        ValueError: no examples, different numbers of choices, or examples with and without a label in one batch.
    """

    tokenizer: PreTrainedTokenizerBase
    padding: bool | str | PaddingStrategy = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return self._collate(examples, "pt")

    def numpy_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return self._collate(examples, "np")

    def _collate(self, examples: list[dict[str, Any]], return_tensors: str) -> dict[str, Any]:
        choices = _choices_of(examples)
        texts = [
            {name: value[choice] for name, value in example.items() if name not in LABEL_NAMES}
            for example in examples
            for choice in range(choices)
        ]
        padded = self.tokenizer.pad(
            texts,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=return_tensors,
        )
        batch = {name: value.reshape(len(examples), choices, *value.shape[1:]) for name, value in padded.items()}
        labels = [example[name] for example in examples for name in LABEL_NAMES if example.get(name) is not None]
        if len(labels) not in (0, len(examples)):
            raise ValueError(
                f"{len(labels)} labels for {len(examples)} examples: expected one of `label` and `labels` in all of "
                "them or in none; -100 stands for no label"
            )
        if labels:
            numbers = np.asarray(labels, dtype=np.int64)
            batch["labels"] = torch.from_numpy(numbers) if return_tensors == "pt" else numbers
        return batch


def _choices_of(examples: list[dict[str, Any]]) -> int:
    """The common number of choices of all examples."""
    if not examples:
        raise ValueError("examples is empty: expected at least one")
    choices = len(examples[0]["input_ids"])
    for number, example in enumerate(examples):
        for name, value in example.items():
            if name not in LABEL_NAMES and len(value) != choices:
                raise ValueError(
                    f"example {number} of the batch has {len(value)} choices in {name!r}, and example 0 has {choices}: "
                    "expected the same number in every question of a batch. Leave choices out or add empty ones, or "
                    "sort questions by their number of choices"
                )
    return choices
