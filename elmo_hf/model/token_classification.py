"""Labels of words: named entities, parts of speech."""

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
        emissions: (batch, words, num_labels), the classifier's scores before a field; `None` without one.
        state: with `return_state=True`, the biLM's state to carry to the next batch.
    """

    emissions: Tensor | None = None
    state: ElmoState | None = None


class ElmoForTokenClassification(ElmoTaskModel):
    """A tagger: ELMo, the task's own layers, a linear classifier of every word, and with `use_crf` a random field.

    The default is the classifier alone over the first mix of layers. The paper's tagger (section 4 and appendix A) has
    word vectors, a biLSTM and a field too: `word_vector_size`, `task_lstm_size`, `use_crf`.

    With a field, `logits` in evaluation are its max-marginals (see `max_marginals`): each word's largest one gives the
    best *sequence* of labels, the one that Viterbi decoding finds. Whoever takes the argmax of the logits, such as
    `Trainer.predict`, `compute_metrics` or the token-classification pipeline, thus decodes by Viterbi. The others say
    how much worse the best sequence with that label there would be, so that their softmax, the pipeline's score, is
    near one where no other sequence comes close; it is no marginal probability. Sentence boundaries and padding are
    outside of the field and have logits of zero. The Trainer's `label_smoothing_factor` computes a loss of its own from
    the logits, which knows nothing of a field.
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
            input_ids: (batch, words), as in [`ElmoModel`]; a field needs them, to tell words from sentence boundaries.
            labels: (batch, words), class numbers, -100 where there is none (boundaries, padding). To a field, a word
                with -100 inside a sentence has some label, which is summed over.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.
            code_point_ids: (batch, characters), what a model with `task_character_size` reads of the words.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, words, num_labels): the classifier's scores; with a field, these in training mode and its
            max-marginals, float32 or wider and without gradient, in evaluation mode. With `labels`, the loss: the mean
            cross-entropy, or the field's negative log-likelihood divided by the number of labels, plus
            `scalar_mix_penalty()`.

        Raises:
            ValueError: labels of another shape, or outside 0..num_labels - 1; for a field, labels outside of the
                sentence, or in a sequence that `tag_scheme` forbids.
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
            logits, total = self._field(emissions, self._words(mask, input_ids), labels)
            if labels is not None:
                loss = mean_loss(total, labels.ne(-100).sum(), num_items_in_batch)
        elif labels is not None:
            loss = mean_cross_entropy(emissions, labels, num_items_in_batch)
        if labels is not None and loss is not None:
            loss = self._penalised(loss, labels, num_items_in_batch)
        scores = None if self.crf is None else emissions
        layers = passed_on(outputs, "hidden_states", "attentions", "state")
        return ElmoTokenClassifierOutput(loss=loss, logits=logits, emissions=scores, **layers)

    def _shapes_of_field(self, emissions: Tensor, *_: Any) -> list[Any]:
        """What `_field` returns."""
        wide = torch.promote_types(emissions.dtype, torch.float32)
        return [(emissions.shape, emissions.dtype if self.training else wide), ((), wide)]

    @opaque(("crf",), _shapes_of_field)
    def _field(self, emissions: Tensor, words: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The logits of `forward`, and the negative log-likelihood of all labels together."""
        assert self.crf is not None
        logits = emissions if self.training else max_marginals(emissions, words, self.crf())
        if labels is None:
            return logits, logits.new_zeros(())
        self._check_places(labels, words)
        return logits, -self.crf.log_likelihood(emissions, labels, words).sum()

    @torch.no_grad()
    def predict(self, input_ids: Tensor, *args: Any, **inputs: Any) -> list[list[int]]:
        """The best labels of each sentence: Viterbi decoding with a field, else each word's likeliest.

        Arguments and errors as in `forward`; like there, dropout acts in training mode.

        Returns:
            For each row of the batch the class numbers of its words, without sentence boundaries and padding.
        """
        emissions, mask, _ = self._emissions(input_ids, *args, **inputs)
        words = self._words(mask, input_ids)
        tags = emissions.argmax(dim=-1) if self.crf is None else best_tags(emissions, words, self.crf())
        return [row[kept].tolist() for row, kept in zip(tags, words, strict=True)]

    @torch.no_grad()
    def predict_paths(
        self, count: int, input_ids: Tensor, *args: Any, **inputs: Any
    ) -> list[list[tuple[list[int], float]]]:
        """The best label sequences of each sentence with their scores, for a tagger with a field.

        Args:
            count: how many, at least 1. Sentences that have fewer possible sequences get fewer.

        Other arguments and errors as in `predict`.

        Returns:
            For each row the labels of its words, as `predict` returns them, and the sequence's score; best first.
        """
        if self.crf is None:
            raise ValueError("use_crf=False: only a tagger with a random field scores sequences of labels")
        emissions, mask, _ = self._emissions(input_ids, *args, **inputs)
        words = self._words(mask, input_ids)
        found = []
        for paths, scores, kept in zip(*best_paths(emissions, words, self.crf(), count), words, strict=True):
            possible = zip(paths[:, kept].tolist(), scores.tolist(), strict=True)
            found.append([(tags, score) for tags, score in possible if score > FORBIDDEN / 2])
        return found

    def _emissions(self, *args: Any, **inputs: Any) -> tuple[Tensor, Tensor, Any]:
        """The classifier's scores (batch, words, num_labels), the mask and the biLM's output, as `encode_words`."""
        features, mask, outputs = self.encode_words(*args, **inputs)
        features = functional.dropout(self.hidden_layers(features), self.config.task_dropout, self.training)
        return self.classifier(features), mask, outputs

    def _words(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """(batch, words), bool: the words that have labels."""
        if input_ids is None:
            raise ValueError(
                "the labels of a sentence are those of its words, and input_ids is missing to tell words from sentence "
                "boundaries. ElmoTokenizer returns it: pass all it returns, model(**encoding)"
            )
        return self.without_boundaries(mask, input_ids)

    @staticmethod
    def _check_places(labels: Tensor, words: Tensor) -> None:
        """Refuse labels where a field has no words."""
        outside = labels.ne(-100) & ~words
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            raise ValueError(
                f"label {int(labels[row, column])} at row {row}, position {column}, which is a sentence boundary or "
                "padding: expected -100 there, as the tokenizer's word_ids() tell; a field is over words only"
            )
