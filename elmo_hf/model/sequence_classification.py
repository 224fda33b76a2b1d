"""Classification and regression of sentences, texts and sentence pairs: sentiment, entailment, similarity."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from .base_model import passed_on
from .configuration_elmo import ElmoConfig
from .feed_forward import ElmoFeedForward, ElmoMaxout
from .initialization import starting_with
from .labels import check_class_numbers, mean_cross_entropy, mean_loss
from .pooling import ElmoPooling, segments_of, words_to_pool
from .state import ElmoState
from .task_model import ElmoTaskModel

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


class ElmoSentenceEncoder(nn.Module):
    """Vector of a text for its classifier: pooling, comparison of a pair, maxout and feed-forward layers.

    Pooling and maxout are those of the biattentive classification network (McCann et al. 2017, section 4), the paper's
    sentiment model. Unlike there, no layer has batch norm, which would make results depend on the other sentences of a
    batch and gradient accumulation inexact.

    The biLM reads a pair as one text. With `config.sentence_pairs`, its two sentences a and b are pooled separately and
    compared as [a; b; |a - b|; a * b] (Mou et al. 2016; Conneau et al. 2017).

    Args:
        config: gives `pooling`, `sentence_pairs`, `maxout_sizes`, `maxout_pieces`, `classifier_layers` and
            `task_dropout`, which acts on the input of every layer and of the classifier.
        width: width of a word's vector.

    Attributes:
        output_size: width of the result.
    """

    def __init__(self, config: ElmoConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.pooling = ElmoPooling(config, width)
        size = self.pooling.output_size * (4 if config.sentence_pairs else 1)
        self.maxout = nn.ModuleList()
        for output_size in config.maxout_sizes:
            self.maxout.append(ElmoMaxout(size, output_size, config.maxout_pieces))
            size = output_size
        self.hidden_layers = ElmoFeedForward(size, config.classifier_layers, config.task_dropout)
        self.dropout = nn.Dropout(config.task_dropout)
        self.output_size = self.hidden_layers.output_size

    def forward(self, words: Tensor, mask: Tensor, input_ids: Tensor, without_boundaries: Tensor) -> Tensor:
        """Encode a batch of texts.

        Args:
            words: (batch, words, width).
            mask: (batch, words), bool: words and sentence boundaries.
            input_ids: (batch, words), whose boundaries separate the sentences of a pair.
            without_boundaries: (batch, words), bool: `mask` without the sentence boundaries.

        Returns:
            (batch, output_size).

        Raises:
            ValueError: with `sentence_pairs`, a text that is not a pair.
        """
        if self.config.sentence_pairs:
            first, second = (
                self.pooling(words, words_to_pool(sentence, without_boundaries))
                for sentence in self._pair(mask, input_ids)
            )
            vectors = torch.cat([first, second, (first - second).abs(), first * second], dim=-1)
        else:
            vectors = self.pooling(words, words_to_pool(mask, without_boundaries))
        return self.reduce(vectors)

    def reduce(self, vectors: Tensor) -> Tensor:
        """Layers after pooling: (batch, pooled width) -> (batch, output_size)."""
        for layer in self.maxout:
            vectors = layer(self.dropout(vectors))
        return self.dropout(self.hidden_layers(vectors))

    def _pair(self, mask: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of both sentences of every row."""
        segments = segments_of(input_ids, mask, self.config.bos_token_id)
        first, second = segments.eq(0), segments.eq(1)
        wrong = ~second.any(dim=1) | segments.gt(1).any(dim=1)
        if not torch.compiler.is_compiling() and wrong.any():
            row = int(wrong.nonzero()[0])
            count = int(segments[row].max()) + 1 if segments.shape[1] else 0
            raise ValueError(
                f"row {row} of the batch: sentence_pairs=True expects two sentences, <S> A </S> <S> B </S>, and this "
                f"is {count}. Encode pairs, tokenizer(text, text_pair), or set sentence_pairs=False for single texts"
            )
        return first, second


@dataclass
class ElmoSequenceClassifierOutput(SequenceClassifierOutput):
    """Output of [`ElmoForSequenceClassification`].

    Attributes:
        state: with `return_state=True`, the biLM's state to carry to the next batch.
    """

    state: ElmoState | None = None


class ElmoForSequenceClassification(ElmoTaskModel):
    """Text classifier: task layers over ELMo, pooling, optional maxout layers, and a linear layer.

    `config.problem_type` selects the loss, as in Transformers. If it is `None`, it is set at the first labels:
    `"regression"` if `num_labels=1`, otherwise `"single_label_classification"` for integers and
    `"multi_label_classification"` for other dtypes.
    """

    _auto_class = "AutoModelForSequenceClassification"
    _reads_sentences = True

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.sentence_encoder = ElmoSentenceEncoder(config, self.task_layers.output_size)
        width = self.sentence_encoder.output_size
        self.classifier: nn.Module
        if config.maxout_classifier:
            self.classifier = ElmoMaxout(width, self.num_labels, config.maxout_pieces)
        else:
            self.classifier = starting_with(nn.Linear(width, self.num_labels), "normal", width**-0.5)
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
    ) -> ElmoSequenceClassifierOutput:
        """Classify every text.

        Args:
            input_ids: (batch, words), required: they mark the sentence boundaries, which are not pooled.
            labels: single label: (batch,), int64, class indices, -100 for none. Multi-label: (batch, num_labels),
                floating point, from 0 to 1. Regression: (batch,) for one value, otherwise (batch, num_labels), floating
                point.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels. In multi-label
                classification and regression, every element of `labels` counts, as in the Trainer. (The losses of
                Transformers divide by it for single labels only.)
            code_point_ids: (batch, characters), integers, for a model with `task_character_size`.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, num_labels); with `labels`, the mean cross-entropy, binary cross-entropy or squared error,
            plus `scalar_mix_penalty()`.

        Raises:
            ValueError: no `input_ids`; with `sentence_pairs`, a text that is not a pair; labels of a wrong dtype, shape
                or value.
        """
        if input_ids is None and (inputs_embeds is None or self.config.sentence_pairs):
            raise ValueError(
                "input_ids missing: they mark the sentence boundaries, which are not pooled. Pass all that the "
                "tokenizer returns, model(**encoding), also together with inputs_embeds"
            )
        words, mask, outputs = self.encode_words(
            input_ids, attention_mask, character_ids, inputs_embeds, pos_tag_ids, code_point_ids, **kwargs
        )
        sentences = self.sentence_encoder(words, mask, input_ids, self.without_boundaries(mask, input_ids))
        logits = self.classifier(sentences)
        loss = None
        if labels is not None:
            loss = self._penalized(self._loss(logits, labels, num_items_in_batch), labels, num_items_in_batch)
        layers = passed_on(outputs, "hidden_states", "attentions", "state")
        return ElmoSequenceClassifierOutput(loss=loss, logits=logits, **layers)

    def _loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        problem_type: ProblemType = self.config.problem_type or self._problem_type_of(labels)
        labels = self._checked(labels, problem_type, len(logits)).to(logits.device)
        # Saved for pipelines, which run without labels.
        self.config.problem_type = problem_type
        if problem_type == "single_label_classification":
            return mean_cross_entropy(logits, labels.long(), num_items_in_batch)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        is_multi_label = problem_type == "multi_label_classification"
        loss_of = functional.binary_cross_entropy_with_logits if is_multi_label else functional.mse_loss
        total = loss_of(logits, labels.to(logits.dtype), reduction="sum")
        return mean_loss(total, labels.numel(), num_items_in_batch)

    def _problem_type_of(self, labels: Tensor) -> ProblemType:
        if self.num_labels == 1:
            return "regression"
        is_whole = not labels.is_floating_point() and labels.dtype != torch.bool
        return "single_label_classification" if is_whole else "multi_label_classification"

    def _checked(self, labels: Tensor, problem_type: ProblemType, batch_size: int) -> Tensor:
        """Check the labels and reshape them for the loss."""
        single = problem_type == "single_label_classification"
        one_each = single or (problem_type == "regression" and self.num_labels == 1)
        shape = (batch_size,) if one_each else (batch_size, self.num_labels)
        found = tuple(labels.shape)
        if found != shape and not (one_each and found == (batch_size, 1)):
            remedy = (
                'for several labels per text, set problem_type="multi_label_classification" and give 0.0 or 1.0 for '
                "each label"
                if single
                else "give one number for each label of each text, or set num_labels and problem_type of the "
                "configuration to those of the data"
            )
            raise ValueError(f"labels of {problem_type} have shape {found}: expected {shape}; {remedy}")
        if labels.is_floating_point() == single or labels.dtype == torch.bool:
            expected, cast = ("integers, class indices", "long") if single else ("floating-point numbers", "float")
            raise ValueError(
                f"labels of {problem_type} are {labels.dtype}: expected {expected}; convert them, labels.{cast}(), or "
                f"set problem_type of the configuration (num_labels={self.num_labels})"
            )
        if single:
            labels = labels.reshape(-1)
            check_class_numbers(labels, self.num_labels)
            return labels
        if torch.compiler.is_compiling():  # would break the graph
            return labels.reshape(shape)
        if problem_type == "multi_label_classification":
            wrong = labels[~((labels >= 0) & (labels <= 1))]
            if len(wrong):
                raise ValueError(
                    f"label {float(wrong[0])}: expected 0.0 or 1.0 for each of the {self.num_labels} labels, or a "
                    'number between; for other numbers set problem_type="regression"'
                )
            return labels
        wrong = labels[~labels.isfinite()]
        if len(wrong):
            raise ValueError(f"label {float(wrong[0])}: expected finite numbers; remove such texts from the data")
        return labels.reshape(batch_size, self.num_labels)
