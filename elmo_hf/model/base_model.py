"""The base model: words of a batch of sentences to contextual vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .bilstm import ElmoEncoder
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

# What a word layer may read, by the arguments' names.
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
        attentions: with `output_attentions=True`, of a Transformer: for each of its layers
            (batch, 2 * num_attention_heads, words, words), the forward direction's heads first; the third axis reads
            the fourth, and padding neither reads nor is read. `None` for a biLSTM, which has none.
        state: with `return_state=True`, the state to carry to the next batch; `None` for a Transformer, which has none.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    representations: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    state: ElmoState | None = None


def passed_on(outputs: Any, *names: str) -> dict[str, Any]:
    """The fields of an [`ElmoModelOutput`] that a head's output has too; `None` for a head without biLM."""
    return {name: getattr(outputs, name, None) for name in names}


class ElmoModel(ElmoPreTrainedModel):
    """The biLM and its layer mixes: contextual vectors of the words of a batch of sentences.

    Stateless: every call starts from `initial_state`, zeros by default, and depends on nothing but its arguments.

    Under `torch.autocast` matrix products are in its dtype; representations, layers and state are in that of the
    weights, in training and in evaluation alike.
    """

    _auto_class = "AutoModel"
    # Of the word cache; a model that was pickled whole by an older version has none of its own.
    _kept_megabytes: float | None = None

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.embeddings = word_layer(config)
        # One of both; `carries_state` tells what it can do.
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
            input_ids: (batch, words), int64: word ids, sentence boundaries included. A model with a table of words
                looks them up; others read them only to know the boundaries; padding is `attention_mask`'s.
            attention_mask: (batch, words), 1 at real words and boundaries, 0 at padding on either side. Without it,
                the padding word is padding in a model with a table of words, and in others words whose
                `character_ids` are all zero.
            character_ids: (batch, words, max_characters_per_word), integers, as [`ElmoTokenizer`] makes them. A model
                that reads words by their id alone ignores them.
            inputs_embeds: (batch, words, projection_size), word vectors in place of all that the model reads;
                `input_ids` then only name the boundaries.
            initial_state: the state of an earlier batch, for carried state as in the originals; a Transformer has none.
            return_state: also return the state after this batch.
            output_hidden_states: also return all layers (default: the configuration's).
            pos_tag_ids: (batch, words), integers, the parts of speech that a model with `num_pos_tags` reads beside
                each word; 0 for none, as at boundaries and padding. Other models ignore them.
            output_attentions: also return a Transformer's attention (default: the configuration's).

        Raises:
            ValueError: missing, contradicting or out-of-range inputs.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        output_attentions, attentions = output_attentions and not self.encoder.carries_state, None
        if output_attentions:
            break_graph("output_attentions=True: attention is gathered by the lengths of sentences, in no graph")
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and not output_attentions:
            mask = self.word_mask(input_ids, attention_mask, character_ids, inputs_embeds)
            hidden, cell = (None, None) if initial_state is None else initial_state
            stacked, *left = self.layers_of(input_ids, character_ids, pos_tag_ids, inputs_embeds, mask, hidden, cell)
            layers = list(stacked.unbind())
            state = ElmoState(*left) if self.encoder.carries_state else None
        else:
            given = dict(zip(WORD_IDS, (input_ids, character_ids, pos_tag_ids), strict=True))
            words, mask, distinct = self._word_vectors(given, attention_mask, inputs_embeds)
            if output_attentions:
                layers, attentions = self.encoder(words, mask, initial_state, with_shares=True)
                state = None
            else:
                layers, state = self._encode(words, mask, initial_state, distinct)
        if self.alignment is not None:
            layers = self.alignment(layers)
        layers, state = self._as_wide_as_weights(layers, state)
        counted = self._normalized_positions(mask, input_ids)
        mixes = [self.dropout(mix(layers, mask, counted)) for mix in self.scalar_mixes]
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return ElmoModelOutput(
            last_hidden_state=mixes[0],
            hidden_states=tuple(layers) if output_hidden_states else None,
            # A single mix is only looked at from another side.
            representations=mixes[0].unsqueeze(1) if len(mixes) == 1 else torch.stack(mixes, dim=1),
            attentions=None if attentions is None else tuple(attentions),
            state=state if return_state else None,
        )

    def _encode(
        self, words: Tensor, mask: Tensor, initial_state: ElmoState | None, distinct: DistinctWords | None
    ) -> tuple[list[Tensor], ElmoState | None]:
        """The layers of the encoder and its state after them."""
        more = (distinct,) if distinct is not None and self.encoder.carries_state else ()
        return self.encoder(words, mask, initial_state, *more)

    def _shapes_of_layers(self, *given: Any) -> list[Any]:
        """What `layers_of` returns."""
        *_, mask, hidden, _ = given
        (rows, words), config, dtype = mask.shape, self.config, cast("torch.dtype", self.scalar_mixes[0].gamma.dtype)
        layers = ((config.num_mixed_layers, rows, words, config.hidden_size), dtype)
        if not self.encoder.carries_state:
            return [layers, ((0,), dtype), ((0,), dtype)]
        size = config.num_hidden_layers, 2, rows if hidden is None else torch.sym_max(rows, hidden.shape[2])
        wide = torch.promote_types(dtype, torch.float32)
        return [layers, ((*size, config.projection_size), dtype), ((*size, config.cell_size), wide)]

    @opaque(("embeddings", "encoder"), _shapes_of_layers)
    def layers_of(self, *given: Any) -> tuple[Tensor, ...]:
        """All layers (layers, batch, words, 2 * P), and the hidden and cell that are left, empty for a Transformer.

        Args:
            given: the values of `WORD_IDS`, `inputs_embeds`, the mask, hidden and cell.
        """
        *ids, inputs_embeds, mask, hidden, cell = given
        words, mask, distinct = self._word_vectors(dict(zip(WORD_IDS, ids, strict=True)), mask, inputs_embeds)
        state = None if hidden is None else ElmoState(hidden, cell)
        layers, left = self._as_wide_as_weights(*self._encode(words, mask, state, distinct))
        return torch.stack(layers), *(left or 2 * [layers[0].new_empty(0)])

    def _word_vectors(
        self, given: dict[str, Tensor | None], attention_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[Tensor, Tensor, DistinctWords | None]:
        """Check the inputs and return the word layer (batch, words, P), zero at padding, the mask, bool, and the words
        that differ, where they were told apart."""
        inputs = self._inputs(given, inputs_embeds)
        name, first = next(iter(inputs.items()))
        shape = tuple(first.shape[:2])
        for other, value in {**given, **inputs, "attention_mask": attention_mask}.items():
            # What the model does not read may have any shape, but word ids, which name the boundaries.
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

    def _as_wide_as_weights(
        self, layers: list[Tensor], state: ElmoState | None
    ) -> tuple[list[Tensor], ElmoState | None]:
        """What the model gives, in the dtype of its weights also under autocast, which is only for products.

        Which layers come in autocast's dtype depends on the implementation, and so on whether gradients are wanted.
        """
        weights = cast("torch.dtype", self.scalar_mixes[0].gamma.dtype)
        layers = [layer.to(torch.promote_types(layer.dtype, weights)) for layer in layers]
        if state is not None:
            state = ElmoState(*(part.to(torch.promote_types(part.dtype, weights)) for part in state))
        return layers, state

    def cache_word_vectors(self, max_megabytes: float | None = 256.0) -> None:
        """Keep the vectors that the word layer makes of words, for the batches to come; off at first, and on a GPU.

        Exact: they depend on nothing but the word, and are forgotten when a weight changes. 256 MB hold some hundred
        thousand words of the original size; what has not been read for longest makes room. Copies and saved models
        have no words in their cache. It is the installed package's: where a checkpoint's code runs without, vectors
        are made anew.

        Args:
            max_megabytes: the most that the cache may hold; `None` turns it off.

        Raises:
            ValueError: a model that reads words by their id alone, whose vectors are a table as it is, or a size that
                is not positive. And in a forward pass in which the word layer would have to learn.
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
        """As every module's; what kernels have prepared of weights that train is dropped."""
        if mode:
            # A frozen biLM in a task model keeps its packs: Trainer calls this at every step.
            release(self, only_trainable=True)
        return super().train(mode)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> "ElmoModel":
        # To another device or dtype: packs of what was would stay in memory.
        release(self)
        return super()._apply(fn, recurse)

    def _inputs(self, given: dict[str, Tensor | None], inputs_embeds: Tensor | None) -> dict[str, Tensor]:
        """What this model makes word vectors of: the inputs of its word layer, or word vectors."""
        names = self.embeddings.input_names
        if inputs_embeds is not None:
            # Word ids beside them name the boundaries.
            wrong = [name for name in names if name != "input_ids" and given[name] is not None]
        else:
            wrong = [name for name in names if given[name] is None]
        if wrong:
            found = "both inputs_embeds and" if inputs_embeds is not None else "none of"
            beside = ", pos_tag_ids where pos_tags stand beside the words" if "pos_tag_ids" in wrong else ""
            raise ValueError(
                f"this ELMo needs either {' and '.join(names)} or inputs_embeds, got {found} {', '.join(wrong)}. "
                f"ElmoTokenizer returns what its model reads{beside}: pass all it returns, model(**encoding)"
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
        """(batch, words), bool: which positions hold words; arguments as in `forward`, at least one of them given."""
        if attention_mask is not None:
            return attention_mask.bool()
        if inputs_embeds is not None:
            return torch.ones(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        first = input_ids if self.embeddings.input_names[0] == "input_ids" else character_ids
        assert first is not None
        return self.embeddings.real_words(first)

    def _normalized_positions(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """The positions whose statistics normalize a layer: all real ones, or those without sentence boundaries."""
        if self.config.scalar_mix_layer_norm != "words":
            return mask
        if input_ids is None:
            raise ValueError(
                'scalar_mix_layer_norm="words" leaves sentence boundaries out and needs input_ids to find them'
            )
        return self.without_boundaries(mask, input_ids)
