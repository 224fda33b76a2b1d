"""Labels of words: named entities, parts of speech."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import can_return_tuple

from .base_model import ElmoModel
from .configuration_elmo import ElmoConfig
from .crf import ElmoCrf, best_tags, log_likelihood, max_marginals
from .initialization import starting_with
from .labels import check_class_numbers, check_one_a_word, mean_cross_entropy, mean_loss
from .pretrained import ElmoPreTrainedModel
from .task_layers import ElmoTaskLayers


class ElmoForTokenClassification(ElmoPreTrainedModel):
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

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 0
        self.elmo = ElmoModel(config) if config.elmo_at else None
        self.task_layers = ElmoTaskLayers(config)
        size = self.task_layers.output_size
        self.classifier = starting_with(nn.Linear(size, self.num_labels), "normal", size**-0.5)
        self.crf = ElmoCrf(config) if config.use_crf else None
        self._freeze_unread_mixes()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        pos_tag_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Classify every word.

        Args:
            input_ids: (batch, words), as in [`ElmoModel`]; a field needs them, to tell words from sentence boundaries.
            labels: (batch, words), class numbers, -100 where there is none (boundaries, padding). To a field, a word
                with -100 inside a sentence has some label, which is summed over.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.

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
            input_ids,
            attention_mask,
            character_ids,
            inputs_embeds,
            output_hidden_states,
            pos_tag_ids,
            kwargs.get("output_attentions"),
        )
        if labels is not None:
            check_one_a_word(labels, emissions.shape[:2])
            check_class_numbers(labels, self.num_labels)
            labels = labels.to(emissions.device, torch.int64)
        logits, loss = emissions, None
        if self.crf is not None:
            words = self._words(mask, input_ids)
            scores = self.crf()
            if not self.training:
                logits = max_marginals(emissions, words, scores)
            if labels is not None:
                self._check_sequences(self.crf, labels, words)
                total = -log_likelihood(emissions, labels, words, scores).sum()
                loss = mean_loss(total, labels.ne(-100).sum(), num_items_in_batch)
        elif labels is not None:
            loss = mean_cross_entropy(emissions, labels, num_items_in_batch)
        if labels is not None and loss is not None:
            loss = self._penalised(loss, labels, num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=None if outputs is None else outputs.hidden_states,
            attentions=None if outputs is None else outputs.attentions,
        )

    @torch.no_grad()
    def predict(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pos_tag_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> list[list[int]]:
        """The best labels of each sentence: Viterbi decoding with a field, else each word's likeliest.

        Arguments and errors as in `forward`; like there, dropout acts in training mode.

        Returns:
            For each row of the batch the class numbers of its words, without sentence boundaries and padding.
        """
        emissions, mask, _ = self._emissions(
            input_ids, attention_mask, character_ids, inputs_embeds, pos_tag_ids=pos_tag_ids
        )
        words = self._words(mask, input_ids)
        tags = emissions.argmax(dim=-1) if self.crf is None else best_tags(emissions, words, self.crf())
        return [row[kept].tolist() for row, kept in zip(tags, words, strict=True)]

    def _emissions(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        character_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_hidden_states: bool | None = None,
        pos_tag_ids: Tensor | None = None,
        output_attentions: bool | None = None,
    ) -> tuple[Tensor, Tensor, Any]:
        """The classifier's scores (batch, words, num_labels), the mask and the biLM's output, as `encode_words`."""
        features, mask, outputs = self.encode_words(
            input_ids,
            attention_mask,
            character_ids,
            inputs_embeds,
            output_hidden_states,
            pos_tag_ids,
            output_attentions,
        )
        features = functional.dropout(features, self.config.task_dropout, self.training)
        return self.classifier(features), mask, outputs

    def _words(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """(batch, words), bool: the words that have labels."""
        if input_ids is None:
            raise ValueError(
                "the labels of a sentence are those of its words, and input_ids is missing to tell words from sentence "
                "boundaries. ElmoTokenizer returns it: pass all it returns, model(**encoding)"
            )
        return self.without_boundaries(mask, input_ids)

    def _check_sequences(self, crf: ElmoCrf, labels: Tensor, words: Tensor) -> None:
        """Refuse labels that no sequence of the field has."""
        outside = labels.ne(-100) & ~words
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            raise ValueError(
                f"label {int(labels[row, column])} at row {row}, position {column}, which is a sentence boundary or "
                "padding: expected -100 there, as the tokenizer's word_ids() tell; a field is over words only"
            )
        crf.check_labels(labels, words)
