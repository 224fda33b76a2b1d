"""Token classification: named entities, POS tags."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import can_return_tuple

from .base_model import passed_on
from .configuration_elmo import ElmoConfig
from .crf import FORBIDDEN, ElmoCrf, best_paths, best_tags, max_marginals
from .feed_forward import ElmoFeedForward
from .initialization import starting_with
from .labels import check_class_numbers, check_one_a_word, mean_cross_entropy, mean_loss
from .opaque_parts import opaque
from .state import ElmoState
from .tag_schemes import name_tags
from .task_model import ElmoTaskModel


@dataclass
class ElmoTokenClassifierOutput(TokenClassifierOutput):
    """Output of [`ElmoForTokenClassification`].

    Attributes:
        emissions: (batch, words, num_labels), the classifier's scores before the CRF; `None` without a CRF.
        state: with `return_state=True`, the biLM's state to carry to the next batch.
    """

    emissions: Tensor | None = None
    state: ElmoState | None = None


class ElmoForTokenClassification(ElmoTaskModel):
    """Tagger: ELMo, the task's own layers, a linear classifier of every word, and with `use_crf` a CRF.

    The default is the classifier alone over the first mix of layers. The paper's tagger (section 4 and appendix A) also
    has word vectors, a biLSTM and a CRF: `word_vector_size`, `task_lstm_size`, `use_crf`.

    With a CRF, `logits` in evaluation are max-marginals (see `max_marginals`), whose argmax is the best *sequence* of
    labels: `Trainer.predict`, `compute_metrics` and the token-classification pipeline, which take the argmax, thus
    decode by Viterbi. Their softmax, the score of the pipeline, is near one where no other sequence scores similarly;
    it is not a marginal probability. Logits are zero at sentence boundaries and padding, which the CRF skips. The
    Trainer's `label_smoothing_factor` computes its own loss from the logits and ignores the CRF.
    """

    _auto_class = "AutoModelForTokenClassification"
    _reads_sentences = True

    def __init__(self, config: ElmoConfig) -> None:
        name_tags(config)
        super().__init__(config)
        self.hidden_layers = ElmoFeedForward(
            self.task_layers.output_size, config.classifier_layers, config.task_dropout
        )
        size = self.hidden_layers.output_size
        self.classifier = starting_with(nn.Linear(size, self.num_labels), "normal", size**-0.5)
        self.crf = ElmoCrf(config) if config.use_crf else None
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
    ) -> ElmoTokenClassifierOutput:
        """Classify every word.

        Args:
            input_ids: (batch, words), as in [`ElmoModel`]; required by a CRF, to tell words from sentence boundaries.
            labels: (batch, words), int64, class indices, -100 for none (boundaries, padding). With a CRF, a word with
                -100 inside a sentence has an unknown label, which is marginalized out.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.
            code_point_ids: (batch, characters), integers, for a model with `task_character_size`.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, words, num_labels): the classifier's scores; with a CRF in evaluation mode, its
            max-marginals, float32 or wider and without gradient. With `labels`, the loss: the mean cross-entropy, or
            the CRF's negative log-likelihood divided by the number of labels, plus `scalar_mix_penalty()`.

        Raises:
            ValueError: labels of another shape, or outside 0..num_labels - 1; with a CRF, labels at boundaries or
                padding, or in a sequence that `tag_scheme` forbids.
        """
        emissions, mask, outputs = self._emissions(
            input_ids, attention_mask, character_ids, inputs_embeds, pos_tag_ids, code_point_ids, **kwargs
        )
        if labels is not None:
            check_one_a_word(labels, emissions.shape[:2])
            check_class_numbers(labels, self.num_labels)
            labels = labels.to(emissions.device, torch.int64)
        logits, loss = emissions, None
        if self.crf is not None:
            logits, total = self._run_crf(emissions, self._words(mask, input_ids), labels)
            if labels is not None:
                loss = mean_loss(total, labels.ne(-100).sum(), num_items_in_batch)
        elif labels is not None:
            loss = mean_cross_entropy(emissions, labels, num_items_in_batch)
        if labels is not None and loss is not None:
            loss = self._penalized(loss, labels, num_items_in_batch)
        scores = None if self.crf is None else emissions
        layers = passed_on(outputs, "hidden_states", "attentions", "state")
        return ElmoTokenClassifierOutput(loss=loss, logits=logits, emissions=scores, **layers)

    def _shapes_of_crf(self, emissions: Tensor, *_: Any) -> list[Any]:
        """Shapes and dtypes of the results of `_run_crf`."""
        wide = torch.promote_types(emissions.dtype, torch.float32)
        return [(emissions.shape, emissions.dtype if self.training else wide), ((), wide)]

    @opaque(("crf",), _shapes_of_crf)
    def _run_crf(self, emissions: Tensor, words: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The logits of `forward`, and the negative log-likelihood summed over the batch."""
        assert self.crf is not None
        logits = emissions if self.training else max_marginals(emissions, words, self.crf())
        if labels is None:
            return logits, logits.new_zeros(())
        self._check_places(labels, words)
        return logits, -self.crf.log_likelihood(emissions, labels, words).sum()

    @torch.no_grad()
    def predict(self, input_ids: Tensor, *args: Any, **inputs: Any) -> list[list[int]]:
        """Predict the labels of each sentence: Viterbi decoding with a CRF, otherwise the argmax of each word.

        Arguments and errors as in `forward`; as there, dropout is active in training mode.

        Returns:
            For each row of the batch, the class indices of its words, without sentence boundaries and padding.
        """
        emissions, mask, _ = self._emissions(input_ids, *args, **inputs)
        words = self._words(mask, input_ids)
        tags = emissions.argmax(dim=-1) if self.crf is None else best_tags(emissions, words, self.crf())
        return [row[kept].tolist() for row, kept in zip(tags, words, strict=True)]

    @torch.no_grad()
    def predict_paths(
        self, count: int, input_ids: Tensor, *args: Any, **inputs: Any
    ) -> list[list[tuple[list[int], float]]]:
        """Predict the best label sequences of each sentence with their scores; requires a CRF.

        Args:
            count: number of sequences per sentence, at least 1; fewer are returned if fewer are possible.

        Other arguments and errors as in `predict`.

        Returns:
            For each row, best first, the labels as `predict` returns them and the score of the sequence.

        Raises:
            ValueError: a tagger without a CRF.
        """
        if self.crf is None:
            raise ValueError("use_crf=False: only a tagger with a CRF scores sequences of labels; call predict")
        emissions, mask, _ = self._emissions(input_ids, *args, **inputs)
        words = self._words(mask, input_ids)
        found = []
        for paths, scores, kept in zip(*best_paths(emissions, words, self.crf(), count), words, strict=True):
            possible = zip(paths[:, kept].tolist(), scores.tolist(), strict=True)
            found.append([(tags, score) for tags, score in possible if score > FORBIDDEN / 2])
        return found

    def _emissions(self, *args: Any, **inputs: Any) -> tuple[Tensor, Tensor, Any]:
        """The classifier's scores (batch, words, num_labels); mask and biLM output as in `encode_words`."""
        features, mask, outputs = self.encode_words(*args, **inputs)
        features = functional.dropout(self.hidden_layers(features), self.config.task_dropout, self.training)
        return self.classifier(features), mask, outputs

    def _words(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """(batch, words), bool: the words, without sentence boundaries."""
        if input_ids is None:
            raise ValueError(
                "only words have labels, and input_ids is missing to tell words from sentence boundaries. Pass all "
                "that ElmoTokenizer returns, model(**encoding)"
            )
        return self.without_boundaries(mask, input_ids)

    @staticmethod
    def _check_places(labels: Tensor, words: Tensor) -> None:
        """Raise a `ValueError` for labels at sentence boundaries or padding."""
        outside = labels.ne(-100) & ~words
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            raise ValueError(
                f"label {int(labels[row, column])} at row {row}, position {column}, which is a sentence boundary or "
                "padding: expected -100 there, because a CRF is over words only; align labels by the tokenizer's "
                "word_ids()"
            )
