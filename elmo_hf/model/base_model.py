"""Base model: contextual vectors for the words of a batch of sentences."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .bilstm import ElmoEncoder
from .conditions import is_in_graph
from .configuration_elmo import ElmoConfig
from .layer_alignment import ElmoAlignment
from .opaque_parts import break_graph, opaque
from .operators import release
from .pretrained import ElmoPreTrainedModel
from .quantized_linear import empty, replace_linear_layers
from .scalar_mix import ElmoScalarMix
from .state import ElmoState
from .transformer import ElmoTransformerEncoder
from .word_embeddings import ElmoWordEmbeddings
from .word_layer import DistinctWords, distinct_words, word_layer

ENCODERS: dict[str, type[ElmoEncoder | ElmoTransformerEncoder]] = {
    "lstm": ElmoEncoder,
    "transformer": ElmoTransformerEncoder,
}

# Arguments that a word layer can read.
WORD_IDS = ("input_ids", "character_ids", "pos_tag_ids")
WITH_A_THIRD_AXIS = ("character_ids", "inputs_embeds")


@dataclass
class ElmoModelOutput(ModelOutput):
    """Output of [`ElmoModel`]; every sequence is aligned with `input_ids` and zero at padding.

    Attributes:
        last_hidden_state: (batch, words, 2 * projection_size), the first mix of layers.
        hidden_states: with `output_hidden_states=True`, the `config.num_mixed_layers` layers, each shaped as
            `last_hidden_state`: the word layer (twice the same vector, as in the original), then each layer of the
            encoder, forward direction first.
        representations: (batch, num_representations, words, 2 * projection_size), all mixes; the first is
            `last_hidden_state`. One tensor, batch first, because pipelines take a batch apart by its first axis.
        attentions: with `output_attentions=True`, the attention weights of each Transformer layer,
            (batch, 2 * num_attention_heads, words, words), the forward direction's heads first; queries on the third
            axis, keys on the fourth, zero at padding. `None` for a biLSTM.
        state: with `return_state=True`, the state to carry to the next batch; `None` for a Transformer, which has none.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    representations: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    state: ElmoState | None = None


def passed_on(outputs: Any, *names: str) -> dict[str, Any]:
    """Fields of an [`ElmoModelOutput`] to copy to a head's output; `None` for a head without a biLM."""
    return {name: getattr(outputs, name, None) for name in names}


class ElmoModel(ElmoPreTrainedModel):
    """The biLM and its scalar mixes: contextual vectors of the words of a batch of sentences.

    Stateless: every call starts from `initial_state` (default: zeros) and depends on its arguments only.

    Under `torch.autocast`, matmuls run in the autocast dtype; representations, layers and state have the dtype of the
    weights, in training and in evaluation.
    """

    _auto_class = "AutoModel"
    # Bound of the word cache. A class attribute, because models pickled by older versions lack it.
    _kept_megabytes: float | None = None

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.embeddings = word_layer(config)
        # Callers ask for `carries_state`, never for the class.
        self.encoder: Any = ENCODERS[config.encoder_type](config)
        self.alignment = ElmoAlignment(config) if config.aligned else None
        self.scalar_mixes = nn.ModuleList(ElmoScalarMix(config) for _ in range(config.num_representations))
        self.dropout = nn.Dropout(config.representation_dropout)
        if config.weight_precision == "int8":
            for part in (self.embeddings, self.encoder):
                replace_linear_layers(part, empty)
                part.requires_grad_(False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        initial_state: ElmoState | None = None,
        return_state: bool = False,
        output_hidden_states: bool | None = None,
        pos_tag_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> ElmoModelOutput:
        """Embed a batch.

        Args:
            input_ids: (batch, words), int64: word ids, sentence boundaries included. A word model looks them up; other
                models use them only to find the boundaries.
            attention_mask: (batch, words), 1 at words and boundaries, 0 at padding on either side. By default the
                padding id of `input_ids` in a word model, and in others the words whose `character_ids` are all zero.
            character_ids: (batch, words, max_characters_per_word), integers, as [`ElmoTokenizer`] returns them.
                Ignored by a word model.
            inputs_embeds: (batch, words, projection_size), word vectors that replace the word layer's output;
                `input_ids` then only mark the boundaries.
            initial_state: the state of an earlier batch, for carried state as in the originals; not for a Transformer.
            return_state: also return the state after this batch.
            output_hidden_states: also return all layers (default: the configuration's).
            pos_tag_ids: (batch, words), integers, the POS tag of each word, for a model with `num_pos_tags`; 0 for
                none, as at boundaries and padding. Ignored by other models.
            output_attentions: also return a Transformer's attention weights (default: the configuration's).

        Raises:
            ValueError: missing, contradictory or out-of-range inputs.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        output_attentions, attentions = output_attentions and not self.encoder.carries_state, None
        if output_attentions:
            break_graph("output_attentions=True: attention weights depend on the sentences' lengths; not in the graph")
        if is_in_graph() and not output_attentions:
            mask = self.word_mask(input_ids, attention_mask, character_ids, inputs_embeds)
            hidden, cell = (None, None) if initial_state is None else initial_state
            stacked, *left = self.layers_of(input_ids, character_ids, pos_tag_ids, inputs_embeds, mask, hidden, cell)
            layers = list(stacked.unbind())
            state = ElmoState(*left) if self.encoder.carries_state else None
        else:
            given = dict(zip(WORD_IDS, (input_ids, character_ids, pos_tag_ids), strict=True))
            words, mask, distinct = self._word_vectors(given, attention_mask, inputs_embeds)
            if output_attentions:
                layers, attentions = self.encoder(words, mask, initial_state, output_attentions=True)
                state = None
            else:
                layers, state = self._encode(words, mask, initial_state, distinct)
        if self.alignment is not None:
            layers = self.alignment(layers)
        layers, state = self._in_weights_dtype(layers, state)
        counted = self._normalized_positions(mask, input_ids)
        mixes = [self.dropout(mix(layers, mask, counted)) for mix in self.scalar_mixes]
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return ElmoModelOutput(
            last_hidden_state=mixes[0],
            hidden_states=tuple(layers) if output_hidden_states else None,
            # A view of a single mix, no copy.
            representations=mixes[0].unsqueeze(1) if len(mixes) == 1 else torch.stack(mixes, dim=1),
            attentions=None if attentions is None else tuple(attentions),
            state=state if return_state else None,
        )

    def _encode(
        self, words: Tensor, mask: Tensor, initial_state: ElmoState | None, distinct: DistinctWords | None
    ) -> tuple[list[Tensor], ElmoState | None]:
        """Run the encoder; returns its layers and its new state."""
        more = (distinct,) if distinct is not None and self.encoder.carries_state else ()
        return self.encoder(words, mask, initial_state, *more)

    def _shapes_of_layers(self, *given: Any) -> list[Any]:
        """Shapes and dtypes of the results of `layers_of`."""
        *_, mask, hidden, _ = given
        (rows, words), config, dtype = mask.shape, self.config, cast("torch.dtype", self.scalar_mixes[0].gamma.dtype)
        layers = ((config.num_mixed_layers, rows, words, config.elmo_size), dtype)
        if not self.encoder.carries_state:
            return [layers, ((0,), dtype), ((0,), dtype)]
        size = config.num_hidden_layers, 2, rows if hidden is None else torch.sym_max(rows, hidden.shape[2])
        wide = torch.promote_types(dtype, torch.float32)
        return [layers, ((*size, config.projection_size), dtype), ((*size, config.cell_size), wide)]

    @opaque(("embeddings", "encoder"), _shapes_of_layers)
    def layers_of(self, *given: Any) -> tuple[Tensor, ...]:
        """All layers (layers, batch, words, 2 * P), and the final hidden and cell, empty for a Transformer.

        Args:
            given: the values of `WORD_IDS`, `inputs_embeds`, the mask, hidden and cell.
        """
        *ids, inputs_embeds, mask, hidden, cell = given
        words, mask, distinct = self._word_vectors(dict(zip(WORD_IDS, ids, strict=True)), mask, inputs_embeds)
        state = None if hidden is None else ElmoState(hidden, cell)
        layers, left = self._in_weights_dtype(*self._encode(words, mask, state, distinct))
        return torch.stack(layers), *(left or 2 * [layers[0].new_empty(0)])

    def _word_vectors(
        self, given: dict[str, Tensor | None], attention_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[Tensor, Tensor, DistinctWords | None]:
        """Check the inputs and encode the words.

        Returns:
            The word layer (batch, words, P), zero at padding; the mask (batch, words), bool; the distinct words, or
            `None` where words were not deduplicated.
        """
        inputs = self._inputs(given, inputs_embeds)
        name, first = next(iter(inputs.items()))
        shape = tuple(first.shape[:2])
        for other, value in {**given, **inputs, "attention_mask": attention_mask}.items():
            # Unread inputs may have any shape, except word ids, which mark the boundaries.
            if value is None or (other not in inputs and other not in ("input_ids", "attention_mask")):
                continue
            if tuple(value.shape[:2] if other in WITH_A_THIRD_AXIS else value.shape) != shape:
                raise ValueError(
                    f"{other} has shape {tuple(value.shape)}: expected {shape}, the batch and words of {name} "
                    f"{tuple(first.shape)}"
                )
        mask = self.word_mask(given["input_ids"], attention_mask, given["character_ids"], inputs_embeds)
        if inputs_embeds is None:
            kept = None if getattr(self, "_is_replica", False) else self._kept_megabytes
            distinct = distinct_words(self.embeddings, list(inputs.values()), mask, kept)
            if distinct is None:
                return self.embeddings(*inputs.values(), mask=mask), mask, None
            words = distinct.vectors.new_zeros(*mask.shape, distinct.vectors.shape[-1])
            return words.masked_scatter_(mask.unsqueeze(-1), distinct.vectors[distinct.places]), mask, distinct
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != self.config.projection_size:
            raise ValueError(
                f"inputs_embeds has shape {tuple(inputs_embeds.shape)}: expected (batch, words, "
                f"{self.config.projection_size})"
            )
        return inputs_embeds * mask.unsqueeze(-1).to(inputs_embeds.dtype), mask, None

    def _in_weights_dtype(self, layers: list[Tensor], state: ElmoState | None) -> tuple[list[Tensor], ElmoState | None]:
        """Cast layers and state at least to the dtype of the weights, also under autocast.

        Otherwise the results' dtype would depend on the kernel that ran, and so on whether gradients are enabled.
        """
        weights = cast("torch.dtype", self.scalar_mixes[0].gamma.dtype)
        layers = [layer.to(torch.promote_types(layer.dtype, weights)) for layer in layers]
        if state is not None:
            state = ElmoState(*(part.to(torch.promote_types(part.dtype, weights)) for part in state))
        return layers, state

    def cache_word_vectors(self, max_megabytes: float | None = 256.0) -> None:
        """Cache the word layer's vectors between batches. Off by default; has no effect on a GPU.

        Exact: a vector depends on its word only, and the cache is cleared when a weight changes. 256 MB hold about a
        hundred thousand words of the original size; the least recently used ones are evicted. Copies of a model and
        saved models start with an empty cache. The cache is part of the installed package: without it, vectors are
        recomputed.

        Args:
            max_megabytes: maximum size of the cache; `None` turns it off.

        Raises:
            ValueError: a word model, which has nothing to compute, or a size that is not positive. Later also raised
                by `forward` if the word layer is trainable and gradients are enabled.
        """
        if max_megabytes is not None and isinstance(self.embeddings, ElmoWordEmbeddings):
            raise ValueError(
                f"cache_word_vectors({max_megabytes}) for a model without character_filters: it reads words by their "
                "id, and their vectors are a table already. Leave cache_word_vectors out"
            )
        if max_megabytes is not None and not max_megabytes > 0:
            raise ValueError(f"max_megabytes={max_megabytes}: expected more than 0, or None for no cache")
        release(self.embeddings)
        self._kept_megabytes = max_megabytes

    def train(self, mode: bool = True) -> "ElmoModel":
        """Set the mode, as `nn.Module.train`; weights prepared for kernels are released if they are trainable."""
        if mode:
            # A frozen biLM in a task model keeps its prepared weights: the Trainer calls this at every step.
            release(self, only_trainable=True)
        return super().train(mode)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> "ElmoModel":
        # A move to another device or dtype would leave the old prepared weights in memory.
        release(self)
        return super()._apply(fn, recurse)

    def _inputs(self, given: dict[str, Tensor | None], inputs_embeds: Tensor | None) -> dict[str, Tensor]:
        """The inputs of this model's word layer, or `inputs_embeds` in their place."""
        names = self.embeddings.input_names
        if inputs_embeds is not None:
            # Word ids are allowed next to them: they mark the boundaries.
            wrong = [name for name in names if name != "input_ids" and given[name] is not None]
        else:
            wrong = [name for name in names if given[name] is None]
        if wrong:
            found = "both inputs_embeds and" if inputs_embeds is not None else "none of"
            beside = " (pos_tag_ids only if it is given pos_tags)" if "pos_tag_ids" in wrong else ""
            raise ValueError(
                f"this ELMo needs either {' and '.join(names)} or inputs_embeds, got {found} {', '.join(wrong)}. "
                f"ElmoTokenizer returns the inputs of its model{beside}: pass all of them, model(**encoding)"
            )
        if inputs_embeds is not None:
            return {"inputs_embeds": inputs_embeds}
        inputs = {name: value for name in names if (value := given[name]) is not None}
        if "input_ids" in inputs and inputs["input_ids"].dim() != 2:
            raise ValueError(f"input_ids has shape {tuple(inputs['input_ids'].shape)}: expected (batch, words)")
        return inputs

    def word_mask(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """(batch, words), bool: true at words, false at padding; arguments as in `forward`, at least one given."""
        if attention_mask is not None:
            return attention_mask.bool()
        if inputs_embeds is not None:
            return torch.ones(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        first = input_ids if self.embeddings.input_names[0] == "input_ids" else character_ids
        assert first is not None
        return self.embeddings.real_words(first)

    def _normalized_positions(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """Positions counted for a layer's mean and variance: all words, with or without sentence boundaries."""
        if self.config.scalar_mix_layer_norm != "words":
            return mask
        if input_ids is None:
            raise ValueError(
                'scalar_mix_layer_norm="words" excludes sentence boundaries and needs input_ids to find them'
            )
        return self.without_boundaries(mask, input_ids)
