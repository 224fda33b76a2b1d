"""One direction of ELMo as a causal language model: probabilities of the next word, and generation."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .base_model import WORD_IDS
from .configuration_elmo import ElmoConfig
from .generation_cache import CACHE, ElmoCache, direction_state, with_direction
from .labels import check_one_a_word, mean_cross_entropy
from .language_model import ElmoForPreTraining
from .masked_language_model import IMPOSSIBLE
from .opaque_parts import break_graph, opaque
from .packing import PackedBatch
from .state import ElmoState
from .word_parts import check_ids

# Arguments of `from_pretrained` that locate the tokenizer of the same checkpoint.
_TOKENIZER_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class ElmoForCausalLM(ElmoForPreTraining, GenerationMixin):
    """One direction of [`ElmoForPreTraining`] as a causal language model, with the same weights.

    `config.direction` chooses the direction. The logits at a word predict the next word *in the order given*. The
    backward direction reads a sentence from its last word to its first: pass `input_ids.flip(1)` and the like; it
    generates from the end of a sentence, starting at `</S>`.

    The other direction is neither computed nor trained; its weights are kept.

    The cache is an [`ElmoCache`] (which wraps an [`ElmoState`]), or for a Transformer the usual keys and values. An
    `ElmoState` is also accepted as `past_key_values`.

    A character model needs the spelling of generated words, and of all words if it is given `input_ids` alone. It takes
    them from the vocabulary of the tokenizer saved with the checkpoint, or set by `set_tokenizer`; words outside the
    vocabulary are then spelled as the unknown word. Given `character_ids`, it reads those.
    """

    _auto_class = "AutoModelForCausalLM"
    # Excludes assisted generation, which crops the cache: a state cannot be cropped.
    _is_stateful = True

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        other = "backward" if config.direction == "forward" else "forward"
        for name, weight in self.elmo.encoder.named_parameters():
            if any(part.startswith(f"{other}_") for part in name.split(".")):
                weight.requires_grad_(False)
        self._note_untrained()
        self._tokenizer_options: dict[str, Any] = {}
        self._spellings: Tensor | None = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a model; arguments as in `PreTrainedModel.from_pretrained`."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._tokenizer_options = {name: kwargs[name] for name in _TOKENIZER_OPTIONS if name in kwargs}
        return loaded

    # ---- forward

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | ElmoState | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        pos_tag_ids: Tensor | None = None,
        cache: Cache | ElmoState | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next word at every position.

        Args:
            attention_mask: (batch, words), or (batch, past words + words), as `generate` passes it with a cache.
            character_ids: (batch, words, max_characters_per_word); by default the vocabulary's spelling of `input_ids`.
            labels: (batch, words), word ids, usually `input_ids`; -100 for words not to predict. Shifted inside the
                model: the word at t is predicted at t - 1, so the first word of a row is not predicted, nor is the
                first one after padding.
            past_key_values: the cache of an earlier output; called `cache` from Transformers 5.24 on.
            use_cache: also return the cache; by default only if `past_key_values` is given.
            logits_to_keep: number of last positions to compute logits for (0 for all), or the positions themselves.
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, words, vocab_size), float32 or wider; -10,000 for the padding and mask ids. With `labels`,
            the mean cross-entropy. `hidden_states`, if requested: this direction's half of each layer,
            (batch, words, projection_size), zero at padding. `attentions`, if requested, of a Transformer: (batch,
            num_attention_heads, words, past words + words), queries on the third axis, keys on the fourth.

        Raises:
            ValueError: labels of another shape, or one that is not a word; a cache for the backward direction of a
                Transformer, whose positions are counted from the left of the sentence.
        """
        past_key_values = past_key_values if cache is None else cache
        if character_ids is None and inputs_embeds is None and "character_ids" in self.elmo.embeddings.input_names:
            break_graph("input_ids alone for a model that reads characters: pass the character_ids of the tokenizer")
            character_ids = self.spell(input_ids)
        words_given = inputs_embeds if inputs_embeds is not None else input_ids
        if words_given is None:
            raise ValueError("neither input_ids nor inputs_embeds: expected what ElmoTokenizer returns")
        steps = words_given.shape[1]
        mask_here = None if attention_mask is None else attention_mask[:, attention_mask.shape[1] - steps :]
        mask = self.elmo.word_mask(input_ids, mask_here, character_ids, inputs_embeds)
        given = input_ids, character_ids, pos_tag_ids, inputs_embeds, mask
        wants_cache = bool(use_cache) or (use_cache is None and past_key_values is not None)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        wants_attentions = output_attentions and not self.elmo.encoder.carries_state
        is_compilable = not (wants_cache or past_key_values is not None or wants_attentions)
        if not is_compilable:
            break_graph("a cache or output_attentions=True: both depend on the words read; not in the graph")
        if not is_compilable or not torch.compiler.is_compiling():
            layers, past, attentions = self._read(given, attention_mask, past_key_values, wants_cache, wants_attentions)
        else:
            layers, past, attentions = self._all_layers(*given)[0].unbind(), None, ()
        top = functional.dropout(layers[-1], self.config.top_layer_dropout, self.training)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        if not isinstance(kept, int):
            top, mask = top[:, kept], mask[:, kept]
        logits = self._logits(top)
        loss = None if labels is None else self._loss(logits, labels, mask, num_items_in_batch)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=tuple(layers) if output_hidden_states else None,
            attentions=tuple(attentions) or None,
            **{CACHE: past if wants_cache else None},
        )

    def _read(
        self, given: Sequence[Any], attention_mask: Tensor | None, past: Any, wants_cache: bool, wants_attentions: bool
    ) -> tuple[Sequence[Tensor], Cache | None, Sequence[Tensor]]:
        """The layers (batch, words, P), the new cache, and the attention weights if wanted.

        Args:
            given: `input_ids`, `character_ids`, `pos_tag_ids`, `inputs_embeds`, and the mask of these words.
        """
        *inputs, inputs_embeds, mask = given
        vectors, mask, _ = self.elmo._word_vectors(dict(zip(WORD_IDS, inputs, strict=True)), mask, inputs_embeds)
        if self.elmo.encoder.carries_state:
            found = self._read_states(vectors, mask, past, wants_cache)
        else:
            found = self._read_keys(vectors, mask, attention_mask, past, wants_cache, wants_attentions)
        layers, cache, attentions = found
        return self.elmo._in_weights_dtype(layers, None)[0], cache, attentions

    def _shapes_of_layers(self, *given: Any) -> list[Any]:
        """Shapes and dtypes of the results of `_all_layers`."""
        config, dtype = self.config, self.elmo.scalar_mixes[0].gamma.dtype
        return [((config.num_mixed_layers, *given[-1].shape, config.projection_size), dtype)]

    @opaque(("elmo.embeddings", "elmo.encoder"), _shapes_of_layers)
    def _all_layers(self, *given: Tensor | None) -> tuple[Tensor]:
        """The layers of `_read` without a cache, (layers, batch, words, P)."""
        layers, _, _ = self._read(given, given[-1], None, False, False)
        return (torch.stack(list(layers)),)

    @property
    def _direction(self) -> int:
        return 0 if self.config.direction == "forward" else 1

    def _read_states(self, vectors: Tensor, mask: Tensor, past: Any, wants_cache: bool) -> tuple[Any, ...]:
        """Implement `_read` for a biLSTM."""
        encoder, name, home = self.elmo.encoder, self.config.direction, vectors.device
        cache = ElmoCache.of(past)
        state = encoder.state_for(len(mask), vectors, cache.state)
        packing = PackedBatch.from_mask(mask)
        packed = words = packing.pack(vectors, packing.forward_index)
        back = torch.argsort(packing.row_order)
        hiddens, cells = direction_state(state, self._direction, packing.row_order)
        layers, finals = [vectors], []
        for layer, hidden, cell in zip(encoder.layers, hiddens, cells, strict=True):
            lstm = getattr(layer, f"{name}_lstm")
            inputs = functional.dropout(packed, self.config.lstm_input_dropout, self.training)
            run = lstm
            if layer.gradient_checkpointing and self.training:
                run = partial(layer._gradient_checkpointing_func, lstm.__call__)
            outputs, *final = run(inputs, packing.batch_sizes, hidden, cell)
            packed = (outputs + inputs if layer.has_skip_connection else outputs).to(home)
            finals.append([part.to(home)[back] for part in final])
            layers.append(packing.unpack(packed, packing.forward_index))
        if encoder.context_word_layer is not None:
            linear = getattr(encoder.context_word_layer, f"{name}_layer")
            top = torch.tanh(linear(torch.cat([packed, words], dim=-1)))
            layers.append(packing.unpack(top, packing.forward_index))
        if wants_cache:
            hidden, cell = (torch.stack(parts) for parts in zip(*finals, strict=True))
            cache.state = with_direction(state, self._direction, hidden, cell)
            cache.words += mask.shape[1]
        return layers, cache, ()

    def _read_keys(
        self,
        vectors: Tensor,
        mask: Tensor,
        attention_mask: Tensor | None,
        past: Any,
        wants_cache: bool,
        wants_attentions: bool,
    ) -> tuple[Any, ...]:
        """Implement `_read` for a Transformer."""
        if wants_cache and self.config.direction == "backward":
            raise ValueError(
                'use_cache=True with direction="backward": the Transformer ELMo numbers positions from the left in '
                "both directions, so the backward direction needs the whole sentence at once; score sentences without "
                "a cache, or use a biLSTM"
            )
        encoder = self.elmo.encoder
        if wants_cache and past is None:
            past = encoder.empty_cache()
        before = 0 if past is None else past.get_seq_length()
        if before:
            full = mask.new_ones(len(mask), before) if attention_mask is None else attention_mask[:, :before].bool()
            if attention_mask is not None and attention_mask.shape[1] != before + mask.shape[1]:
                raise ValueError(
                    f"attention_mask has shape {tuple(attention_mask.shape)}: expected {before} words in the cache and "
                    f"{mask.shape[1]} given"
                )
            full = torch.cat([full, mask], dim=1)
        else:
            full = mask
        cache = past if wants_cache or before else None
        layers, attentions = encoder.read_direction(vectors, full, self._direction, cache, wants_attentions)
        return layers, past, attentions

    def _logits(self, top: Tensor) -> Tensor:
        """(..., P) -> (..., vocab_size); all finite, because label smoothing sums over the vocabulary."""
        logits = self.softmax.logits(top)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not self.softmax.excluded_ids:
            return logits
        index = torch.tensor(self.softmax.excluded_ids, device=logits.device)
        return logits.index_fill(-1, index, IMPOSSIBLE)

    def _loss(self, logits: Tensor, labels: Tensor, mask: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        check_one_a_word(labels, logits.shape[:2])
        self.check_words()
        labels = labels.to(logits.device)
        predicted = labels[:, 1:].ge(0) & mask[:, 1:] & mask[:, :-1]
        targets = labels[:, 1:].masked_fill(~predicted, -100)
        self._check_labels(targets)
        return mean_cross_entropy(logits[:, :-1], targets, num_items_in_batch)

    # ---- words by their id

    def set_tokenizer(self, tokenizer: Any) -> None:
        """Set the tokenizer whose vocabulary spells the words that are given by their id alone.

        Args:
            tokenizer: the model's own [`ElmoTokenizer`].

        Raises:
            ValueError: a tokenizer with another vocabulary or mask id.
        """
        words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        # The model may have more rows (pad_to_multiple_of).
        if [number for _, number in words] != list(range(len(words))) or len(words) > self.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(words)} words and the model vocab_size={self.config.vocab_size}: give the "
                "tokenizer that belongs to the model, or call resize_token_embeddings(len(tokenizer))"
            )
        encoding = tokenizer(
            [word for word, _ in words], is_split_into_words=True, add_special_tokens=False, verbose=False
        )
        rows = torch.as_tensor(encoding["character_ids"])  # [vocab_size, max_characters_per_word], int16
        if self.config.pad_token_id is not None and self.config.pad_token_id < len(rows):
            rows[self.config.pad_token_id] = 0
        mask = self.config.mask_token_id
        if mask is not None and mask != tokenizer.mask_token_id:
            raise ValueError(
                f"mask_token_id={mask} in the model's configuration is the word {words[mask][0]!r} in the tokenizer's "
                f"vocabulary, whose mask has id {tokenizer.mask_token_id}: set config.mask_token_id to it"
            )
        self._spellings = rows

    def spell(self, input_ids: Tensor | None) -> Tensor | None:
        """(batch, words) ids -> (batch, words, max_characters_per_word), int64: the vocabulary's spelling of each word.

        Raises:
            ValueError: no tokenizer was found, or an id is outside its vocabulary.
        """
        if input_ids is None:
            return None
        if self._spellings is None:
            self.set_tokenizer(self._own_tokenizer())
        assert self._spellings is not None
        if self._spellings.device != input_ids.device:
            self._spellings = self._spellings.to(input_ids.device)
        check_ids(input_ids, len(self._spellings), "word id", "the tokenizer has no other words")
        return self._spellings[input_ids].long()

    def _own_tokenizer(self) -> Any:
        """Load the tokenizer saved with the checkpoint."""
        remedy = (
            "pass the character_ids that the tokenizer returns, or call model.set_tokenizer(tokenizer) once to give "
            "the model the spelling of its vocabulary"
        )
        if not self.name_or_path:
            raise ValueError(f"input_ids alone for a model that reads characters: {remedy}")
        try:
            return AutoTokenizer.from_pretrained(
                self.name_or_path, trust_remote_code=self.is_remote_code(), **self._tokenizer_options
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"input_ids alone for a model that reads characters, and {self.name_or_path} has no tokenizer "
                f"({error}): {remedy}"
            ) from error

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the word vocabulary as in all ELMo models; its spelling is read again from the tokenizer."""
        self._spellings = None
        return super().resize_token_embeddings(*args, **kwargs)

    # ---- generation

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        *args: Any,
        character_ids: Tensor | None = None,
        pos_tag_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of `forward` at one step of `generate`; `inputs_embeds` are those of the first step.

        The prompt's words keep their given characters and POS tags; generated words are spelled by the vocabulary and
        have no tag.
        """
        parent: Any = super()
        kwargs["inputs_embeds"] = inputs_embeds  # named above, because `generate` asks the signature
        inputs = parent.prepare_inputs_for_generation(input_ids, next_sequence_length, *args, **kwargs)
        if inputs.get("input_ids") is None:
            return inputs
        steps = inputs["input_ids"].shape[1]
        if character_ids is not None:
            new = input_ids[:, character_ids.shape[1] :]
            rows = character_ids if not new.shape[1] else self._append_spelled(character_ids, new, steps)
            inputs["character_ids"] = rows[:, -steps:]
        if pos_tag_ids is not None:
            tags = functional.pad(pos_tag_ids, (0, input_ids.shape[1] - pos_tag_ids.shape[1]))
            inputs["pos_tag_ids"] = tags[:, -steps:]
        return inputs

    def _append_spelled(self, character_ids: Tensor, new: Tensor, steps: int) -> Tensor:
        """Characters of at least the last `steps` words: the given `character_ids`, then those of the new words."""
        spelled = self.spell(new[:, -steps:])
        assert spelled is not None
        if steps <= new.shape[1]:
            return spelled
        return torch.cat([character_ids.to(spelled.dtype), spelled], dim=1)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Make `generate` use an [`ElmoCache`] for a biLSTM."""
        if not self.elmo.encoder.carries_state:
            if self.config.direction == "backward":
                raise ValueError(
                    'generate with direction="backward": the Transformer ELMo numbers positions from the left in both '
                    "directions, so the backward direction must know the length of the sentence; use a biLSTM"
                )
            return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r}: expected none, because a biLSTM's "
                "cache is a state of constant size; leave cache_implementation out"
            )
        if generation_config.use_cache:
            model_kwargs[CACHE] = ElmoCache.of(model_kwargs.get(CACHE))
        return None
