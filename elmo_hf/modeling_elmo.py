"""ELMo as a Transformers model: layers, base model, task models."""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput, TokenClassifierOutput
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, can_return_tuple

from .adaptive_softmax_elmo import ElmoAdaptiveSoftmax
from .configuration_elmo import ElmoConfig
from .embeddings_elmo import ElmoCharacterEmbeddings
from .initialization_elmo import initialise, starting_with
from .lstm_elmo import ElmoState, projected_lstm
from .packing_elmo import PackedBatch
from .scalar_mix_elmo import ElmoScalarMix
from .softmax_elmo import ElmoSoftmax
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


@dataclass
class ElmoForPreTrainingOutput(ModelOutput):
    """Output of [`ElmoForPreTraining`].

    Attributes:
        loss: with `labels`, the mean of the two directions' losses, in nats a word.
        forward_loss, backward_loss: the two directions'.
        forward_log_probs: (batch, words), log P(word | the words before it); zero where nothing is predicted (the
            first word, padding, words without a probability).
        backward_log_probs: (batch, words), log P(word | the words after it), likewise.
        hidden_states, state: as in [`ElmoModelOutput`].
    """

    loss: Tensor | None = None
    forward_loss: Tensor | None = None
    backward_loss: Tensor | None = None
    forward_log_probs: Tensor | None = None
    backward_log_probs: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    state: ElmoState | None = None


class ElmoLstm(nn.Module):
    """One direction of one layer: the weights of a clipped, projected LSTM; gates in the order i, f, g, o."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        width, cell = config.projection_size, config.cell_size
        self.cell_clip = config.cell_clip
        self.projection_clip = config.projection_clip
        self.forget_bias = config.forget_bias
        # Glorot-uniform over the original's one kernel, whose rows are the input's and the recurrence's.
        scale = (6 / (2 * width + 4 * cell)) ** 0.5
        self.input_proj = starting_with(nn.Linear(width, 4 * cell), "uniform", scale)
        self.hidden_proj = starting_with(nn.Linear(width, 4 * cell, bias=False), "uniform", scale)
        self.output_proj = None
        if config.cell_projection:
            scale = (6 / (cell + width)) ** 0.5
            self.output_proj = starting_with(nn.Linear(cell, width, bias=False), "uniform", scale)

    def forward(
        self, inputs: Tensor, batch_sizes: list[int], hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Packed [total, P] -> packed [total, P], final hidden [rows, P], final cell [rows, H]."""
        return projected_lstm(
            inputs,
            batch_sizes,
            hidden,
            cell,
            self.input_proj,
            self.hidden_proj,
            self.output_proj,
            cell_clip=self.cell_clip,
            projection_clip=self.projection_clip,
            forget_bias=self.forget_bias,
        )


class ElmoLayer(GradientCheckpointingLayer):
    """A forward and a backward LSTM side by side; neither sees the other."""

    def __init__(self, config: ElmoConfig, layer_index: int) -> None:
        super().__init__()
        # Never around the first layer: words are not added to its output.
        self.has_skip_connection = config.use_skip_connections and layer_index > 0
        self.dropout = config.lstm_input_dropout
        self.forward_lstm = ElmoLstm(config)
        self.backward_lstm = ElmoLstm(config)

    def forward(
        self, forward_inputs: Tensor, backward_inputs: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: list[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run both directions.

        Args:
            forward_inputs, backward_inputs: packed [total, P], each in its own reading order.
            hidden: (2, rows, P); cell: (2, rows, H).
            batch_sizes: rows running at each step.

        Returns:
            The outputs, shaped and ordered as the inputs, and the final hidden and cell.
        """
        outputs, finals = [], []
        for direction, (lstm, inputs) in enumerate(
            ((self.forward_lstm, forward_inputs), (self.backward_lstm, backward_inputs))
        ):
            # The skip connection carries the dropped-out input, as in bilm-tf.
            inputs = functional.dropout(inputs, self.dropout, self.training)
            output, *final = lstm(inputs, batch_sizes, hidden[direction], cell[direction])
            # The carried hidden state stays without the skip connection.
            outputs.append(output + inputs if self.has_skip_connection else output)
            finals.append(final)
        return outputs[0], outputs[1], *(torch.stack(pair) for pair in zip(*finals, strict=True))


class ElmoEncoder(nn.Module):
    """The stack of biLSTM layers over word vectors."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.projection_size = config.projection_size
        self.cell_size = config.cell_size
        self.layers = nn.ModuleList(ElmoLayer(config, index) for index in range(config.num_hidden_layers))

    def forward(
        self, words: Tensor, mask: Tensor, initial_state: ElmoState | None = None
    ) -> tuple[list[Tensor], ElmoState]:
        """Run all layers.

        Args:
            words: (batch, words, P), zero at padding.
            mask: (batch, words), bool.
            initial_state: state of at least, at most or exactly as many rows as the batch has.

        Returns:
            N + 1 layers (batch, words, 2P), the words themselves first, and the new state. Rows that the batch does
            not have keep their state; rows that the state does not have start at zero: as in both originals, a row
            is known by its index alone.
        """
        rows = mask.shape[0]
        state = self.state_for(rows, words, initial_state)
        packing = PackedBatch.from_mask(mask)
        restore = torch.argsort(packing.row_order)
        outputs, final = self.run_layers(
            packing.pack(words, packing.forward_index),
            packing.pack(words, packing.backward_index),
            packing.batch_sizes,
            ElmoState(*(part[:, :, packing.row_order] for part in state)),
        )
        layers = [torch.cat([words, words], dim=-1)]
        for forward, backward in outputs:
            unpacked = (
                packing.unpack(forward, packing.forward_index),
                packing.unpack(backward, packing.backward_index),
            )
            layers.append(torch.cat(unpacked, dim=-1))
        kept = (part[:, :, rows:].to(new.dtype) for part, new in zip(state, final, strict=True))
        carried = (torch.cat([new[:, :, restore], old], dim=2) for new, old in zip(final, kept, strict=True))
        return layers, ElmoState(*carried)

    def run_layers(
        self, forward: Tensor, backward: Tensor, batch_sizes: list[int], state: ElmoState
    ) -> tuple[list[tuple[Tensor, Tensor]], ElmoState]:
        """Run all layers over packed words; the two directions may read different text, as in pretraining.

        Args:
            forward, backward: packed [total, P], each in its own reading order.
            batch_sizes: rows running at each step.
            state: of exactly the rows packed, in their order.

        Returns:
            For each layer the outputs of both directions, packed as the inputs; the final state of the rows.
        """
        home = forward.device
        outputs, finals = [], []
        for layer, hidden, cell in zip(self.layers, state.hidden, state.cell, strict=True):
            forward, backward, *final = layer(forward, backward, hidden, cell, batch_sizes)
            # A layer may live on another device than the words (device_map); its results come home.
            outputs.append((forward.to(home), backward.to(home)))
            finals.append([part.to(home) for part in final])
        return outputs, ElmoState(*(torch.stack(parts) for parts in zip(*finals, strict=True)))

    def state_for(self, rows: int, words: Tensor, state: ElmoState | None) -> ElmoState:
        """The state to start from, of at least `rows` rows, with the device and dtype that `words` ask for."""
        shapes = [(len(self.layers), 2, rows, size) for size in (self.projection_size, self.cell_size)]
        dtypes = [words.dtype, torch.promote_types(words.dtype, torch.float32)]
        if state is None:
            return ElmoState(
                *(words.new_zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
            )
        parts = []
        for name, part, shape, dtype in zip(("hidden", "cell"), state, shapes, dtypes, strict=True):
            if part.dim() != 4 or part.shape[:2] != shape[:2] or part.shape[3] != shape[3]:
                raise ValueError(
                    f"initial_state.{name} has shape {tuple(part.shape)}: expected ({shape[0]}, 2, rows, {shape[3]}), "
                    "as this model returns it with return_state=True"
                )
            part = part.to(device=words.device, dtype=dtype)
            missing = rows - part.shape[2]
            parts.append(functional.pad(part, (0, 0, 0, missing)) if missing > 0 else part)
        return ElmoState(*parts)


def _install(staging: Path, folder: Path, variant: str | None) -> None:
    """Move a saved model into `folder`; weights of the same variant that it replaces are removed.

    A rank that saves nothing, or a model that saves only its adapter, replaces no weights.
    """
    suffix = f".{re.escape(variant)}" if variant else ""
    weights = re.compile(
        rf"model{suffix}(-\d{{5}}-of-\d{{5}})?\.safetensors|{re.escape(SAFE_WEIGHTS_NAME)}\.index{suffix}\.json"
    )
    written = sorted(path.name for path in staging.iterdir())
    if CONFIG_NAME in written:
        written.remove(CONFIG_NAME)
        written.append(CONFIG_NAME)
        (folder / CONFIG_NAME).unlink(missing_ok=True)
    if any(weights.fullmatch(name) for name in written):
        for path in folder.iterdir():
            if weights.fullmatch(path.name):
                path.unlink()
    for name in written:
        os.replace(staging / name, folder / name)


class ElmoPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and the word-vocabulary rules shared by all ELMo models."""

    config: ElmoConfig
    config_class = ElmoConfig
    base_model_prefix = "elmo"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ElmoCharacterEmbeddings", "ElmoWordEmbeddings", "ElmoLayer"]
    # Parts that one kind of model has and another can do without.
    _keys_to_ignore_on_load_unexpected = [r"^softmax\.", r"scalar_mixes\.\d+\.(weights|gamma)$"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ElmoScalarMix):
            module.reset_weights()
        elif not initialise(module):
            super()._init_weights(module)

    @property
    def bilm(self) -> "ElmoModel":
        """The biLM and its mixes: this model or the one inside it."""
        return self if isinstance(self, ElmoModel) else getattr(self, self.base_model_prefix)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of a word model's words, else that of characters.

        Rows of the latter are bytes, not words: `resize_token_embeddings` never touches it.
        """
        embeddings = self.bilm.embeddings
        if isinstance(embeddings, ElmoWordEmbeddings):
            return embeddings.word_embeddings
        return embeddings.character_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        embeddings = self.bilm.embeddings
        if isinstance(embeddings, ElmoWordEmbeddings):
            embeddings.word_embeddings = value
        else:
            embeddings.character_embeddings = value

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resize the *word* vocabulary: `config.vocab_size`, a word model's table and the softmax, if there is one.

        A character model reads words of any spelling, so its character table stays as it is.

        Args:
            new_num_tokens: `len(tokenizer)`; `None` keeps the size.
            pad_to_multiple_of: rounds the size up.
            mean_resizing: new rows start as the mean of the old words', not at random.

        Returns:
            The input embeddings: the table of words, or the unchanged character table.
        """
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if size < 1:
            raise ValueError(f"new_num_tokens={new_num_tokens}: expected at least 1, usually len(tokenizer)")
        if pad_to_multiple_of is not None:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        embeddings, softmax = self.bilm.embeddings, self.get_output_embeddings()
        if isinstance(embeddings, ElmoWordEmbeddings):
            embeddings.resize(size, mean_resizing)
        if isinstance(softmax, ElmoSoftmax | ElmoAdaptiveSoftmax):
            softmax.resize(size, mean_resizing)
        self.config.vocab_size = size
        self.tie_weights()
        return self.get_input_embeddings()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save the model and the code that reads it; arguments as in `PreTrainedModel.save_pretrained`.

        Everything is written to a hidden folder inside `save_directory` first and moved into place when it is
        complete, so that a disk that fills up costs nothing. The configuration comes last, and goes first: a folder in
        which moving stopped half way has none and does not load.
        """
        if kwargs.get("push_to_hub") or kwargs.get("distributed_checkpoint"):
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        folder = Path(save_directory)
        if folder.is_file():
            raise NotADirectoryError(f"{folder} is a file: expected a folder to save the model in")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # Inside, not beside: the folder may be the only writable place of its file system.
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
                super().save_pretrained(staging, *args, **kwargs)
                _install(Path(staging), folder, kwargs.get("variant"))
        except BaseException:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
            raise

    def freeze_bilm(self, frozen: bool = True) -> None:
        """Stop (or resume) training of the biLM's weights. The scalar mixes stay trainable, as in the paper."""
        for part in (self.bilm.embeddings, self.bilm.encoder):
            part.requires_grad_(not frozen)

    def scalar_mix_penalty(self) -> Tensor:
        """`config.scalar_mix_l2` times the sum of squares of all raw mixing weights: to add to a task's loss."""
        penalties: list[Tensor] = [mix.penalty() for mix in self.bilm.scalar_mixes]  # type: ignore[operator]
        return self.config.scalar_mix_l2 * torch.stack(penalties).sum()

    def _penalised(self, loss: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Add the mixing weights' penalty to a loss, once an optimiser step also when gradients are accumulated."""
        if not self.config.scalar_mix_l2:
            return loss
        penalty = self.scalar_mix_penalty().to(loss.device)
        if num_items_in_batch is not None:
            penalty = penalty * (labels.ne(-100).sum() / num_items_in_batch).to(loss.device)
        return loss + penalty


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


class ElmoForPreTraining(ElmoPreTrainedModel):
    """The bidirectional language model: a biLM and the softmax over words that both directions share."""

    _auto_class = "AutoModelForPreTraining"
    # With `config.tie_word_embeddings`, which only a word model can have.
    _tied_weights_keys = {"softmax.weight": "elmo.embeddings.word_embeddings.weight"}

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.elmo = ElmoModel(config)
        self.softmax = ElmoSoftmax(config) if config.softmax_cutoffs is None else ElmoAdaptiveSoftmax(config)
        # No language model reads the mixes: without a gradient, they would hold up distributed training.
        self.elmo.scalar_mixes.requires_grad_(False)
        self.post_init()

    def get_output_embeddings(self) -> ElmoSoftmax | ElmoAdaptiveSoftmax:
        return self.softmax

    def set_output_embeddings(self, new_embeddings: ElmoSoftmax | ElmoAdaptiveSoftmax) -> None:
        self.softmax = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        character_ids: Tensor | None = None,
        labels: Tensor | None = None,
        initial_state: ElmoState | None = None,
        return_state: bool = False,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> ElmoForPreTrainingOutput:
        """Predict every word from the words before it, and from the words after it.

        The forward direction predicts w_t from its top layer at t - 1, the backward one from its own at t + 1; so
        `</S>` is predicted forwards and `<S>` backwards.

        Args:
            input_ids: (batch, words), boundaries included; the words predicted.
            labels: (batch, words), the words to predict in the loss, -100 for none: usually `input_ids`.
            num_items_in_batch: divides the summed losses in place of this batch's number of predictions.

        Other arguments and errors as in [`ElmoModel`].
        """
        outputs = self.elmo(
            input_ids,
            attention_mask,
            character_ids,
            initial_state=initial_state,
            return_state=return_state,
            output_hidden_states=True,
            return_dict=True,
        )
        top = functional.dropout(outputs.hidden_states[-1], self.config.lstm_input_dropout, self.training)
        real = self.elmo.word_mask(input_ids, attention_mask, character_ids)
        targets = input_ids if labels is None else labels.where(labels.ge(0), input_ids)
        self._check_range(targets)
        predicted = real & self.softmax.has_probability(targets)
        log_probs, losses = [], []
        for half, shift in zip(top.chunk(2, dim=-1), (1, -1), strict=True):
            # Position t reads its context at t - 1 (forward) or t + 1 (backward); no sentence wraps around.
            context, context_is_real = half.roll(shift, dims=1), real.roll(shift, dims=1).clone()
            context_is_real[:, 0 if shift == 1 else -1] = False
            here = predicted & context_is_real
            scores = self.softmax.log_probabilities(context[here], targets[here])
            log_probs.append(scores.new_zeros(here.shape).masked_scatter(here, scores))
            if labels is not None:
                in_loss = here & labels.ge(0)
                count = in_loss.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
                losses.append(-(log_probs[-1] * in_loss).sum() / count)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return ElmoForPreTrainingOutput(
            loss=(losses[0] + losses[1]) / 2 if losses else None,
            forward_loss=losses[0].detach() if losses else None,
            backward_loss=losses[1].detach() if losses else None,
            forward_log_probs=log_probs[0],
            backward_log_probs=log_probs[1],
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            state=outputs.state,
        )

    def _check_range(self, word_ids: Tensor) -> None:
        if not word_ids.numel():
            return
        low, high, count = int(word_ids.min()), int(word_ids.max()), self.config.vocab_size
        if low < 0 or high >= count:
            raise ValueError(
                f"word id {low if low < 0 else high}: expected ids from 0 to {count - 1}; the model's vocab_size is "
                "not the tokenizer's. Load the tokenizer that belongs to the model, or call resize_token_embeddings"
            )


class ElmoForTokenClassification(ElmoPreTrainedModel):
    """A linear classifier of every word over the first mix of layers: named entities, parts of speech."""

    _auto_class = "AutoModelForTokenClassification"

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__(config)
        self.num_labels: int = config.num_labels or 0
        self.elmo = ElmoModel(config)
        # Only the first mix is read; see `ElmoForPreTraining` for the others.
        self.elmo.scalar_mixes[1:].requires_grad_(False)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        starting_with(self.classifier, "normal", config.hidden_size**-0.5)
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
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Classify every word.

        Args:
            labels: (batch, words), class numbers, -100 where there is none (boundaries, padding).
            num_items_in_batch: divides the summed loss in place of this batch's number of labels.

        Other arguments and errors as in [`ElmoModel`].

        Returns:
            logits (batch, words, num_labels); with `labels`, the mean cross-entropy, plus `scalar_mix_penalty()`.

        Raises:
            ValueError: a label outside 0..num_labels - 1.
        """
        outputs = self.elmo(
            input_ids,
            attention_mask,
            character_ids,
            inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            wrong = labels[(labels < 0) & (labels != -100) | (labels >= self.num_labels)]
            if len(wrong):
                raise ValueError(
                    f"label {int(wrong[0])}: expected 0 to {self.num_labels - 1}, or -100 for none; set num_labels "
                    "(or id2label) of the configuration to the data's labels"
                )
            loss = self.loss_function(logits, labels, self.config, num_items_in_batch=num_items_in_batch)
            loss = self._penalised(loss, labels, num_items_in_batch)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
