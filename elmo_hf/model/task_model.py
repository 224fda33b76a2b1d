"""Base class of task models: a biLM, the task's own layers, and the penalty of the mix weights."""

from typing import Any

import torch
from torch import Tensor

from .base_model import ElmoModel
from .configuration_elmo import ElmoConfig
from .opaque_parts import opaque
from .pretrained import ElmoPreTrainedModel
from .state import ElmoState
from .task_layers import ElmoTaskLayers


class ElmoTaskModel(ElmoPreTrainedModel):
    """Task model without a classifier.

    Attributes:
        elmo: an [`ElmoModel`], or `None` for the baseline without a biLM.
        task_layers: the task's own layers.
    """

    # True if a row is one sentence; in other models, boundaries also separate the sentences of a row.
    _reads_sentences = False

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 0
        self.elmo = ElmoModel(config.of_bilm) if config.elmo_at else None
        self.task_layers = ElmoTaskLayers(config)
        if self.elmo is not None:
            # Unused mixes have no gradient and would stall distributed training.
            self.elmo.scalar_mixes[len(config.elmo_at) :].requires_grad_(False)

    def encode_words(self, *args: Any, **inputs: Any) -> tuple[Tensor, Tensor, Any]:
        """Features for the task's classifier; arguments and results as in `read_words`, without the layers' state."""
        return self.read_words(*args, **inputs)[:3]

    def read_words(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pos_tag_ids: Tensor | None = None,
        code_point_ids: Tensor | None = None,
        layers_state: ElmoState | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Any, ElmoState | None]:
        """Run the biLM, its mixes, and the task's own layers over a batch.

        Arguments as in [`ElmoModel`], `code_point_ids` as in [`ElmoTaskCharacters`], and `layers_state` as the
        `initial_state` of [`ElmoTaskLayers`]. Without a biLM, only `input_ids`, `attention_mask` and these two are
        read, and the mask defaults to all words but the padding id.

        Returns:
            features (batch, words, task_layers.output_size), zero at padding; the mask of words and boundaries
            (batch, words), bool; the [`ElmoModelOutput`], `None` without a biLM; the final state of the task's layers,
            `None` without recurrent layers.

        Raises:
            ValueError: missing, contradictory or out-of-range inputs.
        """
        outputs, representations = None, None
        if self.elmo is None:
            mask = self.word_mask(input_ids, attention_mask)
        else:
            inputs = input_ids, attention_mask, character_ids, inputs_embeds
            outputs = self.elmo(*inputs, pos_tag_ids=pos_tag_ids, **{**kwargs, "return_dict": True})
            representations, mask = outputs.representations, self.word_mask(*inputs)
        words_only = self._words_only(mask, input_ids)
        state = (None, None) if layers_state is None else tuple(layers_state)
        features, *left = self._run_task_layers(mask, representations, input_ids, code_point_ids, words_only, *state)
        return features, mask, outputs, ElmoState(*left) if left else None

    def _shapes_of_task_layers(self, mask: Tensor, *given: Tensor | None) -> list[Any]:
        """Shapes and dtypes of the results of `_run_task_layers`."""
        dtype = next(self.parameters()).dtype
        shapes: list[Any] = [((*mask.shape, self.task_layers.output_size), dtype)]
        if self.config.task_lstm_size:
            size = (self.config.task_lstm_layers, 2, len(mask), self.config.task_lstm_size)
            shapes += [(size, dtype), (size, torch.promote_types(dtype, torch.float32))]
        return shapes

    @opaque(("task_layers",), _shapes_of_task_layers)
    def _run_task_layers(self, mask: Tensor, *given: Any) -> tuple[Tensor, ...]:
        """Features and, with recurrent layers, their hidden and cell.

        Args:
            given: `representations`, `input_ids`, `code_point_ids`, `words_only`, and the initial hidden and cell.
        """
        representations, input_ids, *others, hidden, cell = given
        before = None if hidden is None else ElmoState(hidden, cell)
        features, left = self.task_layers(representations, input_ids, mask, *others, before)
        return (features, *(left or ()))

    def _words_only(self, mask: Tensor, input_ids: Tensor | None) -> Tensor | None:
        """(batch, words), bool: words that the recurrent layers read; `None` for all of `mask`."""
        config = self.config
        if not (self._reads_sentences and config.words_only and config.task_lstm_size) or config.sentence_pairs:
            return None
        if input_ids is None:
            raise ValueError(
                "input_ids missing to tell words from sentence boundaries, which this model's biLSTM does not read "
                "(words_only=True). Pass all that ElmoTokenizer returns, model(**encoding)"
            )
        return self.without_boundaries(mask, input_ids)

    def word_mask(self, input_ids: Tensor | None, attention_mask: Tensor | None = None, *others: Any) -> Tensor:
        """(batch, words), bool: true at words, false at padding; arguments as in [`ElmoModel`]."""
        if self.elmo is not None:
            return self.elmo.word_mask(input_ids, attention_mask, *others)
        if input_ids is None or input_ids.dim() != 2:
            raise ValueError(
                f"input_ids {'missing' if input_ids is None else f'of shape {tuple(input_ids.shape)}'}: expected "
                "(batch, words), because a model without biLM (elmo_at=[]) looks up words by their id. Pass all that "
                "ElmoTokenizer returns, model(**encoding)"
            )
        if attention_mask is None:
            pad = self.config.pad_token_id
            return torch.ones_like(input_ids, dtype=torch.bool) if pad is None else input_ids.ne(pad)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}: expected {tuple(input_ids.shape)}, the batch "
                "and words of input_ids"
            )
        return attention_mask.bool()
