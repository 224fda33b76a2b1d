"""Multiple choice: selection of one of several texts, such as answers or endings."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MultipleChoiceModelOutput
from transformers.utils import can_return_tuple

from .base_model import passed_on
from .configuration_elmo import ElmoConfig
from .initialization import starting_with
from .labels import check_class_numbers, mean_cross_entropy
from .sequence_classification import ElmoSentenceEncoder
from .task_model import ElmoTaskModel


class ElmoForMultipleChoice(ElmoTaskModel):
    """Multiple-choice head: scores each choice separately; the softmax is over the choices of a question.

    A choice is a text or a pair (the question and one answer), encoded as in [`ElmoForSequenceClassification`]. Batches
    come from `ElmoDataCollatorForMultipleChoice`, or from Transformers' `DataCollatorForMultipleChoice`, which flattens
    a text's character rows into one.
    """

    _auto_class = "AutoModelForMultipleChoice"

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.sentence_encoder = ElmoSentenceEncoder(config, self.task_layers.output_size)
        width = self.sentence_encoder.output_size
        self.classifier = starting_with(nn.Linear(width, 1), "normal", width**-0.5)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        pos_tag_ids: Tensor | None = None,
        code_point_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput:
        """Score every choice.

        Args:
            input_ids: (batch, choices, words). They mark the sentence boundaries, which are not pooled; with
                `inputs_embeds` alone, all positions are pooled.
            attention_mask: (batch, choices, words).
            character_ids: (batch, choices, words, max_characters_per_word), or the same values as
                (batch, choices, words * max_characters_per_word).
            inputs_embeds: (batch, choices, words, projection_size).
            labels: (batch,), int64, index of the correct choice, -100 for none.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.
            pos_tag_ids: (batch, choices, words).
            code_point_ids: (batch, choices, characters).

        Returns:
            logits (batch, choices); with `labels`, the mean cross-entropy plus `scalar_mix_penalty()`; if requested,
            hidden states (batch * choices, words, 2 * projection_size).

        Raises:
            ValueError: inputs without a choices axis, or with different numbers of choices; a label out of range; and
                as [`ElmoForSequenceClassification`].
        """
        shaped = inputs_embeds if input_ids is None else input_ids
        if shaped is None:
            raise ValueError(
                "input_ids missing: pass all that ElmoDataCollatorForMultipleChoice returns, model(**batch)"
            )
        if input_ids is None and self.config.sentence_pairs:
            raise ValueError(
                "input_ids missing: sentence_pairs=True compares two sentences, and only input_ids separate them"
            )
        length = self.config.max_characters_per_word
        joined = (*shaped.shape[:2], shaped.shape[2] * length) if shaped.dim() >= 3 else None
        if character_ids is not None and tuple(character_ids.shape) == joined:  # Transformers' collator
            character_ids = character_ids.unflatten(2, (shaped.shape[2], length))
        given = {
            "input_ids": (input_ids, "(batch, choices, words)"),
            "attention_mask": (attention_mask, "(batch, choices, words)"),
            "character_ids": (character_ids, "(batch, choices, words, characters)"),
            "inputs_embeds": (inputs_embeds, "(batch, choices, words, projection_size)"),
            "pos_tag_ids": (pos_tag_ids, "(batch, choices, words)"),
            "code_point_ids": (code_point_ids, "(batch, choices, characters)"),
        }
        flat: dict[str, Any] = {name: self._flattened(name, *value, shaped) for name, value in given.items()}
        words, mask, outputs = self.encode_words(**flat, **kwargs)
        ids = flat["input_ids"]
        choices = self.sentence_encoder(words, mask, ids, self.without_boundaries(mask, ids))
        logits = self.classifier(choices).view(shaped.shape[:2])  # [batch, choices]
        loss = None
        if labels is not None:
            loss = self._penalized(self._loss(logits, labels, num_items_in_batch), labels, num_items_in_batch)
        layers = passed_on(outputs, "hidden_states", "attentions")
        return MultipleChoiceModelOutput(loss=loss, logits=logits, **layers)

    @staticmethod
    def _flattened(name: str, value: Tensor | None, axes: str, shaped: Tensor) -> Tensor | None:
        """(batch, choices, ...) -> (batch * choices, ...)."""
        if value is None:
            return None
        if value.dim() != axes.count(",") + 1 or value.shape[:2] != shaped.shape[:2]:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}: expected {axes}, batch and choices as in input_ids "
                f"{tuple(shaped.shape)}. Build batches with ElmoDataCollatorForMultipleChoice"
            )
        return value.flatten(0, 1)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """A minimal batch: one question with two choices."""
        return {name: value.unsqueeze(0) for name, value in super().dummy_inputs.items()}

    def _loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        batch_size, choices = logits.shape
        if tuple(labels.shape) != (batch_size,) or labels.is_floating_point():
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} and type {labels.dtype}: expected ({batch_size},) integers, "
                "the index of each question's correct choice"
            )
        labels = labels.to(logits.device, torch.int64)
        check_class_numbers(labels, choices, "a label is the index of the correct choice")
        return mean_cross_entropy(logits, labels, num_items_in_batch)
