"""The base model: words of a batch of sentences to contextual vectors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .configuration_elmo import ElmoConfig
from .embeddings_elmo import ElmoCharacterEmbeddings
from .encoder_elmo import ElmoEncoder
from .lstm_elmo import ElmoState
from .pretrained_elmo import ElmoPreTrainedModel
from .scalar_mix_elmo import ElmoScalarMix
from .word_embeddings_elmo import ElmoWordEmbeddings


@dataclass
class ElmoModelOutput(ModelOutput):
    """Output of [`ElmoModel`]; every sequence is aligned with `input_ids` and zero at padding.

    Attributes:
        last_hidden_state: (batch, words, 2 * projection_size), the first mix of layers.
        hidden_states: with `output_hidden_states=True`, the num_hidden_layers + 1 layers, each shaped as
            `last_hidden_state`: the word layer (twice the same vector, as in the original), then each biLSTM layer,
            forward direction first.
        representations: (batch, num_representations, words, 2 * projection_size), all mixes; the first is
            `last_hidden_state`. One tensor, batch first, because pipelines take a batch apart by its first axis.
        attentions: always `None`; ELMo has none, and encoder-decoder models ask.
        state: with `return_state=True`, the state to carry to the next batch.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    representations: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    state: ElmoState | None = None


class ElmoModel(ElmoPreTrainedModel):
    """The biLM and its layer mixes: contextual vectors of the words of a batch of sentences.

    Stateless: every call starts from `initial_state`, zeros by default, and depends on nothing but its arguments.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        reads_words = config.word_embedding_size > 0
        self.embeddings = ElmoWordEmbeddings(config) if reads_words else ElmoCharacterEmbeddings(config)
        self.encoder = ElmoEncoder(config)
        self.scalar_mixes = nn.ModuleList(ElmoScalarMix(config) for _ in range(config.num_representations))
        self.dropout = nn.Dropout(config.representation_dropout)
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
        **kwargs: Any,
    ) -> ElmoModelOutput:
        """Embed a batch.

        Args:
            input_ids: (batch, words), int64: word ids, sentence boundaries included. A word model looks them up; a
                character model reads them only to know the boundaries; padding is `attention_mask`'s.
            attention_mask: (batch, words), 1 at real words and boundaries, 0 at padding on either side. Without it,
                the padding word is padding in a word model, and in a character model words whose `character_ids` are
                all zero.
            character_ids: (batch, words, max_characters_per_word), integers, as [`ElmoTokenizer`] makes them. A word
                model ignores them.
            inputs_embeds: (batch, words, projection_size), word vectors in place of those of `character_ids`, or of a
                word model's `input_ids`, which then only name the boundaries.
            initial_state: the state of an earlier batch, for carried state as in the originals.
            return_state: also return the state after this batch.
            output_hidden_states: also return all layers (default: the configuration's).

        Raises:
            ValueError: missing, contradicting or out-of-range inputs.
        """
        words, mask = self._word_vectors(input_ids, attention_mask, character_ids, inputs_embeds)
        layers, state = self.encoder(words, mask, initial_state)
        counted = self._normalised_positions(mask, input_ids)
        mixes = [self.dropout(mix(layers, mask, counted)) for mix in self.scalar_mixes]
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return ElmoModelOutput(
            last_hidden_state=mixes[0],
            hidden_states=tuple(layers) if output_hidden_states else None,
            # A single mix is only looked at from another side.
            representations=mixes[0].unsqueeze(1) if len(mixes) == 1 else torch.stack(mixes, dim=1),
            state=state if return_state else None,
        )

    def _word_vectors(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        character_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Check the inputs and return the word layer (batch, words, P), zero at padding, and the mask, bool."""
        name, given = self._read_input(input_ids, character_ids, inputs_embeds)
        shape = tuple(given.shape[:2])
        for other, value in (("input_ids", input_ids), ("attention_mask", attention_mask)):
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(
                    f"{other} has shape {tuple(value.shape)}: expected {shape}, the batch and words of {name} "
                    f"{tuple(given.shape)}"
                )
        mask = self.word_mask(input_ids, attention_mask, character_ids, inputs_embeds)
        if name != "inputs_embeds":
            return self.embeddings(given, mask), mask
        if given.dim() != 3 or given.shape[2] != self.config.projection_size:
            raise ValueError(
                f"inputs_embeds has shape {tuple(given.shape)}: expected (batch, words, {self.config.projection_size})"
            )
        return given * mask.unsqueeze(-1).to(given.dtype), mask

    def _read_input(
        self, input_ids: Tensor | None, character_ids: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[str, Tensor]:
        """The one argument that this model makes word vectors of, with its name."""
        if self.config.word_embedding_size:
            if inputs_embeds is not None:
                return "inputs_embeds", inputs_embeds
            if input_ids is None:
                raise ValueError(
                    "this ELMo reads words by their id and needs input_ids or inputs_embeds, got none. ElmoTokenizer "
                    "returns input_ids: pass all it returns, model(**encoding)"
                )
            if input_ids.dim() != 2:
                raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}: expected (batch, words)")
            return "input_ids", input_ids
        if character_ids is not None and inputs_embeds is None:
            return "character_ids", character_ids
        if inputs_embeds is not None and character_ids is None:
            return "inputs_embeds", inputs_embeds
        raise ValueError(
            "this ELMo reads words as characters and needs either character_ids or inputs_embeds, got "
            f"{'none' if character_ids is None else 'both'}. ElmoTokenizer returns character_ids beside input_ids: "
            "pass all it returns, model(**encoding)"
        )

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
        if not self.config.word_embedding_size:
            assert character_ids is not None
            return character_ids.ne(0).any(dim=-1)
        assert input_ids is not None
        if self.config.pad_token_id is None:
            return torch.ones_like(input_ids, dtype=torch.bool)
        return input_ids.ne(self.config.pad_token_id)

    def _normalised_positions(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """The positions whose statistics normalise a layer: all real ones, or those without sentence boundaries."""
        if self.config.scalar_mix_layer_norm != "words":
            return mask
        if input_ids is None:
            raise ValueError(
                'scalar_mix_layer_norm="words" leaves sentence boundaries out and needs input_ids to find them'
            )
        boundaries = [token for token in (self.config.bos_token_id, self.config.eos_token_id) if token is not None]
        return mask & ~torch.isin(input_ids, torch.tensor(boundaries, device=input_ids.device))
