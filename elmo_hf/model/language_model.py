"""ELMo with its pretraining head: the bidirectional language model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .adaptive_softmax import ElmoAdaptiveSoftmax
from .base_model import ElmoModel, passed_on
from .configuration_elmo import ElmoConfig
from .labels import check_one_a_word, mean_loss
from .opaque_parts import opaque
from .pretrained import ElmoPreTrainedModel
from .softmax import ElmoSoftmax
from .state import ElmoState
from .word_parts import VOCABULARY_REMEDY, check_ids


@dataclass
class ElmoForPreTrainingOutput(ModelOutput):
    """Output of [`ElmoForPreTraining`].

    Attributes:
        loss: with `labels`, the mean of the directions' losses, in nats per word.
        forward_loss, backward_loss: with `labels`, the loss of each direction, without gradient.
        forward_log_probs: (batch, words), log P(word | preceding words); zero where nothing is predicted (the first
            word, padding, words without a probability).
        backward_log_probs: (batch, words), log P(word | following words), likewise.
        hidden_states, attentions, state: as in [`ElmoModelOutput`].

    Without a backward direction, its fields are `None`.
    """

    loss: Tensor | None = None
    forward_loss: Tensor | None = None
    backward_loss: Tensor | None = None
    forward_log_probs: Tensor | None = None
    backward_log_probs: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    state: ElmoState | None = None


class ElmoForPreTraining(ElmoPreTrainedModel):
    """Bidirectional language model: a biLM and a softmax over words, shared by both directions.

    Raises:
        ValueError: `causal=False` or `aligned=True`, with which a prediction would see its own word.
    """

    _auto_class = "AutoModelForPreTraining"
    # For `config.tie_word_embeddings`; in a joined word layer the embeddings are the submodule `words`.
    _tied_weights_keys = {"softmax.weight": r"elmo\.embeddings\.(words\.)?word_embeddings\.weight"}

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        if not config.causal:
            raise ValueError(
                "causal=False: each position of a plain bidirectional encoder has read the whole sentence, including "
                "the word to predict; use causal=True, or use such an encoder for other tasks"
            )
        if config.aligned:
            raise ValueError(
                "aligned=True: a language model's softmax needs the layers as they were trained, and the alignment "
                "mixes both directions, so that each would see the word it predicts; load it with aligned=False"
            )
        self.elmo = ElmoModel(config)
        self.softmax = ElmoSoftmax(config) if config.softmax_cutoffs is None else ElmoAdaptiveSoftmax(config)
        # Unused by language models: parameters without a gradient would stall distributed training.
        self.elmo.scalar_mixes.requires_grad_(False)
        self.post_init()

    def get_output_embeddings(self) -> ElmoSoftmax | ElmoAdaptiveSoftmax:
        return self.softmax

    def set_output_embeddings(self, new_embeddings: ElmoSoftmax | ElmoAdaptiveSoftmax) -> None:
        self.softmax = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        pos_tag_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> ElmoForPreTrainingOutput:
        """Predict each word from the preceding words and from the following words.

        The forward direction predicts w_t from its top layer at t - 1, the backward direction from its top layer at
        t + 1; so the forward direction predicts `</S>` and the backward direction `<S>`.

        Args:
            input_ids: (batch, words), int64, boundaries included: the words to read and to predict. With
                `inputs_embeds` and `labels` they may be missing; only labels are then predicted.
            labels: (batch, words), int64, the words that count in the loss, -100 for none: usually `input_ids`.
            num_items_in_batch: divides the summed losses in place of this batch's number of predictions.

        Other arguments and errors as in [`ElmoModel`].

        Raises:
            ValueError: neither `input_ids` nor `labels`.
        """
        if labels is not None:
            self.check_words()
        beside, top, real = self._read_words(
            input_ids, attention_mask, character_ids, inputs_embeds, pos_tag_ids=pos_tag_ids, **kwargs
        )
        if labels is not None:
            check_one_a_word(labels, real.shape)
        targets, wanted = input_ids, real
        if labels is not None:
            targets = labels.clamp(min=0) if input_ids is None else labels.where(labels.ge(0), input_ids)
            wanted = real & labels.ge(0) if input_ids is None else real
        if targets is None:
            raise ValueError("inputs_embeds alone: expected the words to predict too, as input_ids or labels")
        check_ids(targets, self.config.vocab_size, "word id", VOCABULARY_REMEDY)
        predicted = wanted & self.softmax.has_probability(targets)
        log_probs, losses = [], []
        for half, shift in zip(top.chunk(1 + self.config.bidirectional, dim=-1), (1, -1)):
            # Position t has its context at t - 1 (forward) or t + 1 (backward); `roll` must not wrap around.
            context, context_is_real = half.roll(shift, dims=1), real.roll(shift, dims=1).clone()
            context_is_real[:, 0 if shift == 1 else -1] = False
            here = predicted & context_is_real
            log_probs += self._log_probabilities_of(context, targets, here)
            if labels is not None:
                in_loss = here & labels.ge(0)
                losses.append(mean_loss(-(log_probs[-1] * in_loss).sum(), in_loss.sum(), num_items_in_batch))
        return ElmoForPreTrainingOutput(
            loss=torch.stack(losses).mean() if losses else None,
            forward_loss=losses[0].detach() if losses else None,
            backward_loss=losses[1].detach() if len(losses) == 2 else None,
            forward_log_probs=log_probs[0],
            backward_log_probs=log_probs[1] if len(log_probs) == 2 else None,
            **beside,
        )

    def _read_words(self, *words: Tensor | None, **kwargs: Any) -> tuple[dict[str, Any], Tensor, Tensor]:
        """Run the biLM.

        Args:
            words: `input_ids`, `attention_mask`, `character_ids` and `inputs_embeds`.
            kwargs: the other arguments of [`ElmoModel`].

        Returns:
            The fields to copy to the head's output; the top layer (batch, words, 2 * P), with dropout in training; the
            mask (batch, words), bool.
        """
        outputs = self.elmo(*words, **{**kwargs, "output_hidden_states": True, "return_dict": True})
        top = functional.dropout(outputs.hidden_states[-1], self.config.top_layer_dropout, self.training)
        beside, wanted = passed_on(outputs, "attentions", "state"), kwargs.get("output_hidden_states")
        if self.config.output_hidden_states if wanted is None else wanted:
            beside["hidden_states"] = outputs.hidden_states
        return beside, top, self.elmo.word_mask(*words)

    @opaque(
        ("softmax",),
        lambda _, context, *given: [(context.shape[:2], torch.promote_types(context.dtype, torch.float32))],
    )
    def _log_probabilities_of(self, context: Tensor, targets: Tensor, here: Tensor) -> tuple[Tensor]:
        """Log-probability of each target given its context (batch, words, P): (batch, words), zero where `here` is
        false."""
        scores = self.softmax.log_probabilities(context[here], targets[here])
        return (scores.new_zeros(here.shape).masked_scatter(here, scores),)

    def check_words(self) -> None:
        """Raise a `ValueError` for a vocabulary of special tokens only: every word would be the unknown word."""
        config = self.config
        special = {*config.special_word_ids, config.pad_token_id, config.mask_token_id} - {None}
        if config.vocab_size <= len(special):
            raise ValueError(
                f"vocab_size={config.vocab_size}: the vocabulary has special tokens only, so there is no word to "
                "predict. Build a vocabulary with elmo-hf build-vocab and train its softmax with elmo-hf pretrain "
                "--initialize_from, or in Python with warm_start"
            )

    def _check_softmax(self) -> None:
        """Raise a `ValueError` if the softmax still has random weights because the checkpoint had none."""
        if any(name.startswith("softmax.") for name in self._not_loaded):
            raise ValueError(
                f"the checkpoint {self.name_or_path!r} has no softmax, and one with random weights predicts nothing: "
                "convert the original with its softmax weights and vocabulary, or learn a softmax with elmo-hf "
                "pretrain --initialize_from ... --softmax_only_steps"
            )

    def _check_labels(self, labels: Tensor) -> None:
        """Raise a `ValueError` naming the first label that is neither a word of the vocabulary nor -100."""
        if torch.compiler.is_compiling():
            return  # would break the graph
        size = self.config.vocab_size
        wrong = labels[labels.ne(-100) & (labels.ge(size) | ~self.softmax.has_probability(labels))]
        if len(wrong):
            raise ValueError(
                f"label {int(wrong[0])}: expected a word of the vocabulary, 0 to {size - 1} and neither padding nor "
                "mask, or -100 for none. Labels are the tokenizer's ids of the true words"
            )
