"""The biLSTM of ELMo: stacked layers of a forward and a backward LSTM with projection and clipping."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_elmo import ElmoConfig
from .context_word_layer import ElmoContextWordLayer
from .initialization import glorot_bound, starting_with
from .operators import bidirectional_lstm, constants, projected_lstm, reads_padding
from .packing import PackedBatch
from .state import ElmoState
from .word_layer import DistinctWords


class ElmoLstm(nn.Module):
    """One direction of one layer: an LSTM with projection and clipping; gates in the order i, f, g, o."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        width, cell = config.projection_size, config.cell_size
        self.cell_clip = config.cell_clip
        self.projection_clip = config.projection_clip
        self.forget_bias = config.forget_bias
        # The original draws one kernel for input and recurrence together, so its shape determines the bound.
        scale = glorot_bound(2 * width, 4 * cell)
        self.input_proj = starting_with(nn.Linear(width, 4 * cell), "uniform", scale)
        self.hidden_proj = starting_with(nn.Linear(width, 4 * cell, bias=False), "uniform", scale)
        self.output_proj = None
        if config.cell_projection:
            self.output_proj = starting_with(nn.Linear(cell, width, bias=False), "uniform", glorot_bound(cell, width))

    def forward(
        self, inputs: Tensor, batch_sizes: list[int], hidden: Tensor, cell: Tensor, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Packed [total, P], or [n, P] with `index` [total] -> packed [total, P], final hidden [rows, P] and cell."""
        layers = self.input_proj, self.hidden_proj, self.output_proj
        return projected_lstm(inputs, batch_sizes, hidden, cell, *layers, index=index, **constants(self))


class ElmoLayer(GradientCheckpointingLayer):
    """Forward and backward LSTM, independent of each other; without a backward LSTM, its output is zeros."""

    def __init__(self, config: ElmoConfig, layer_index: int) -> None:
        super().__init__()
        # The first layer has none, as in bilm-tf.
        self.has_skip_connection = config.use_skip_connections and layer_index > 0
        self.config = config
        self.forward_lstm = ElmoLstm(config)
        self.backward_lstm = ElmoLstm(config) if config.bidirectional else None

    def forward(
        self,
        forward_inputs: Tensor,
        backward_inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        batch_sizes: list[int],
        indices: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run both directions.

        Args:
            forward_inputs, backward_inputs: packed [total, P], each in its own reading order.
            hidden: (2, rows, P); cell: (2, rows, H).
            batch_sizes: rows running at each step.
            indices: for each direction [total], int64: word k is row `index[k]` of its inputs, which are [n, P] then.

        Returns:
            The outputs [total, P], in the order of the words, and the final hidden and cell.
        """
        inputs = forward_inputs, backward_inputs
        drops = self.training and self.config.lstm_input_dropout > 0
        if indices is not None and (drops or self.has_skip_connection):
            # Each occurrence of a word has its own dropout mask.
            inputs = forward_inputs.index_select(0, indices[0]), backward_inputs.index_select(0, indices[1])
            indices = None
        # The skip connection carries the dropped-out input, as in bilm-tf.
        forward_inputs, backward_inputs = (
            functional.dropout(part, self.config.lstm_input_dropout, self.training) for part in inputs
        )
        if self.backward_lstm is None:
            index = None if indices is None else indices[0]
            forward, *final = self.forward_lstm(forward_inputs, batch_sizes, hidden[0], cell[0], index)
            backward = torch.zeros_like(forward)
            hidden, cell = (torch.stack([new, old[1].to(new)]) for new, old in zip(final, (hidden, cell), strict=True))
            return forward + forward_inputs if self.has_skip_connection else forward, backward, hidden, cell
        inputs, lstms = (forward_inputs, backward_inputs), (self.forward_lstm, self.backward_lstm)
        forward, backward, hidden, cell = bidirectional_lstm(inputs, batch_sizes, hidden, cell, *lstms, indices)
        # After the recurrence: the carried hidden state excludes the skip connection.
        if self.has_skip_connection:
            forward, backward = forward + forward_inputs, backward + backward_inputs
        return forward, backward, hidden, cell


class ElmoEncoder(nn.Module):
    """The stack of biLSTM layers over word vectors."""

    carries_state = True

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.projection_size = config.projection_size
        self.cell_size = config.cell_size
        self.directions = 1 + config.bidirectional
        self.layers = nn.ModuleList(ElmoLayer(config, index) for index in range(config.num_hidden_layers))
        self.context_word_layer = ElmoContextWordLayer(config) if config.context_word_layer else None

    def forward(
        self,
        words: Tensor,
        mask: Tensor,
        initial_state: ElmoState | None = None,
        distinct: DistinctWords | None = None,
    ) -> tuple[list[Tensor], ElmoState]:
        """Run all layers.

        Args:
            words: (batch, words, P), zero at padding.
            mask: (batch, words), bool.
            initial_state: the state of an earlier batch, of any number of rows.
            distinct: the same words deduplicated, so that the first layer's input matmul runs once per distinct word.

        Returns:
            All `num_mixed_layers` layers (batch, words, 2P), or P wide without a backward direction, the word layer
            first, and the new state. As in both originals, rows are matched by index: state rows beyond the batch keep
            their values, batch rows beyond the state start at zero.
        """
        rows = mask.shape[0]
        state = self.state_for(rows, words, initial_state)
        both = [(layer.forward_lstm, layer.backward_lstm) for layer in self.layers]
        on_gpu = self.directions == 2 and self.context_word_layer is None and reads_padding(words, state.cell, both)
        packing = PackedBatch.from_mask(mask, with_padding=on_gpu)
        restore = torch.argsort(packing.row_order)
        in_order = ElmoState(*(part[:, :, packing.row_order] for part in state))
        if distinct is None:
            packed = packing.pack(words, packing.forward_index), packing.pack(words, packing.backward_index)
            outputs, final = self.run_layers(*packed, packing.batch_sizes, in_order)
        else:
            places = torch.zeros_like(mask, dtype=torch.int64).masked_scatter_(mask, distinct.places).flatten()
            indices = places[packing.forward_index], places[packing.backward_index]
            vectors = distinct.vectors
            outputs, final = self.run_layers(vectors, vectors, packing.batch_sizes, in_order, indices)
        layers = [torch.cat([words] * self.directions, dim=-1)]
        for forward, backward in outputs:
            unpacked = [
                packing.unpack(forward, packing.forward_index),
                packing.unpack(backward, packing.backward_index),
            ]
            layers.append(torch.cat(unpacked[: self.directions], dim=-1))
        kept = (part[:, :, rows:].to(new.dtype) for part, new in zip(state, final, strict=True))
        carried = (torch.cat([new[:, :, restore], old], dim=2) for new, old in zip(final, kept, strict=True))
        return layers, ElmoState(*carried)

    def run_layers(
        self,
        forward: Tensor,
        backward: Tensor,
        batch_sizes: list[int],
        state: ElmoState,
        indices: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[list[tuple[Tensor, Tensor]], ElmoState]:
        """Run all layers over packed words; the two directions may read different text, as in pretraining.

        Args:
            forward, backward: packed [total, P], each in its own reading order.
            batch_sizes: rows running at each step.
            state: of exactly the packed rows, in packed order.
            indices: for each direction [total], int64: word k is row `index[k]` of `forward` or `backward`, which are
                [n, P] then.

        Returns:
            For each layer the outputs of both directions, packed as the inputs, the context-word layer last if there is
            one; the final state of the rows.
        """
        home = forward.device
        words = forward, backward
        if indices is not None and self.context_word_layer is not None:
            words = forward.index_select(0, indices[0]), backward.index_select(0, indices[1])
        outputs, finals = [], []
        for layer, hidden, cell in zip(self.layers, state.hidden, state.cell, strict=True):
            forward, backward, *final = layer(forward, backward, hidden, cell, batch_sizes, indices)
            indices = None
            # A layer may be on another device than the words (device_map).
            outputs.append((forward.to(home), backward.to(home)))
            finals.append([part.to(home) for part in final])
        if self.context_word_layer is not None:
            forward, backward = self.context_word_layer(*outputs[-1], *words)
            outputs.append((forward.to(home), backward.to(home)))
        return outputs, ElmoState(*(torch.stack(parts) for parts in zip(*finals, strict=True)))

    def state_for(self, rows: int, words: Tensor, state: ElmoState | None) -> ElmoState:
        """The initial state, padded to at least `rows` rows, on the device of `words` and in its dtype (cell: float32
        or wider)."""
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
