"""What a task model has between the biLM and its classifier: word vectors of its own and a biLSTM (paper, section 3.2).

The paper joins ELMo to the input of a task's recurrent layers, [x; ELMo], to their output, [h; ELMo], or to both, each
place with a mix of its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_elmo import ElmoConfig
from .initialization import InitialValues, glorot_bound, starting_with
from .operators import projected_lstm
from .packing import PackedBatch
from .word_embeddings import ElmoWordEmbeddings


class ElmoWordVectors(ElmoWordEmbeddings):
    """A task's own word vectors; at first uniform, of length one on average, whatever the size of the vocabulary."""

    @staticmethod
    def first_values(config: ElmoConfig, size: int) -> InitialValues:
        return InitialValues("uniform", (3 / size) ** 0.5)


class ElmoTaskLstm(nn.Module):
    """One direction of one layer: an LSTM without projection and clips; gates in the order i, f, g, o.

    1.0 is added to the forget gate at run time, as in the biLM.
    """

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        # Glorot-uniform over one kernel, whose rows are the input's and the recurrence's.
        scale = glorot_bound(input_size + size, 4 * size)
        self.input_proj = starting_with(nn.Linear(input_size, 4 * size), "uniform", scale)
        self.hidden_proj = starting_with(nn.Linear(size, 4 * size, bias=False), "uniform", scale)

    def forward(self, inputs: Tensor, batch_sizes: list[int]) -> Tensor:
        """Packed [total, input_size] -> packed [total, size]; `batch_sizes` are the rows running at each step."""
        rows = batch_sizes[0] if batch_sizes else 0
        hidden = inputs.new_zeros(rows, self.size)
        cell = hidden.to(torch.promote_types(inputs.dtype, torch.float32))
        outputs, _, _ = projected_lstm(
            inputs,
            batch_sizes,
            hidden,
            cell,
            self.input_proj,
            self.hidden_proj,
            None,
            cell_clip=None,
            projection_clip=None,
            forget_bias=1.0,
        )
        return outputs


class ElmoTaskLayer(nn.Module):
    """One biLSTM layer: both directions read the outputs of both directions of the layer below."""

    def __init__(self, input_size: int, size: int) -> None:
        super().__init__()
        self.forward_lstm = ElmoTaskLstm(input_size, size)
        self.backward_lstm = ElmoTaskLstm(input_size, size)

    def forward(self, inputs: Tensor, packing: PackedBatch) -> Tensor:
        """Packed [total, input_size], first word first -> [total, 2 * size] likewise, forward direction first."""
        mirrored = packing.mirrored
        forward = self.forward_lstm(inputs, packing.batch_sizes)
        # Mirroring twice restores the order.
        backward = self.backward_lstm(inputs[mirrored], packing.batch_sizes)[mirrored]
        return torch.cat([forward, backward], dim=-1)


class ElmoTaskLayers(nn.Module):
    """ELMo at the input or output of a task's own layers, as the configuration asks.

    Without any option the result is the first mix of the biLM's layers, unchanged. What a head feeds to layers of its
    own behind these it drops out itself.

    Attributes:
        output_size: width of the result: (2 * `task_lstm_size` or the width of the input) + (2P with ELMo at the
            output); the input is [mix; word vector].
        input_mix, output_mix: index of the mix that each place reads; `None` for a place without ELMo.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        places = [place for place in ("input", "output") if place in config.elmo_at]
        self.input_mix = places.index("input") if "input" in places else None
        self.output_mix = places.index("output") if "output" in places else None
        self.word_vectors = None
        if config.word_vector_size:
            self.word_vectors = ElmoWordVectors(config, config.word_vector_size)
            self.word_vectors.requires_grad_(config.train_word_vectors)
        self.dropout = config.task_dropout
        width = config.word_vector_size + (config.hidden_size if self.input_mix is not None else 0)
        size = config.task_lstm_size
        self.layers = nn.ModuleList(
            ElmoTaskLayer(2 * size if index else width, size) for index in range(config.task_lstm_layers if size else 0)
        )
        self.output_size: int = 2 * size or width
        if self.output_mix is not None:
            self.output_size += config.hidden_size

    def forward(self, representations: Tensor | None, input_ids: Tensor | None, mask: Tensor) -> Tensor:
        """Encode the words that `mask` marks; padding on either side is never read.

        Args:
            representations: (batch, K, words, 2P), the mixes of [`ElmoModel`], zero at padding; `None` for a model
                without biLM.
            input_ids: (batch, words), any integer dtype: the words of the task's own vectors; `None` without them.
            mask: (batch, words), bool.

        Returns:
            (batch, words, output_size), zero at padding.

        Raises:
            ValueError: missing `input_ids`, or ids outside the table of vectors.
        """
        parts = []
        if self.input_mix is not None:
            assert representations is not None
            parts.append(representations[:, self.input_mix])
        if self.word_vectors is not None:
            if input_ids is None:
                raise ValueError(
                    "this model looks up word vectors (word_vector_size) and needs input_ids. ElmoTokenizer returns "
                    "them: pass all it returns, model(**encoding)"
                )
            parts.append(self.word_vectors(input_ids, mask))
        words = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        if len(self.layers):
            words = self._run_layers(words, mask)
        if self.output_mix is not None:
            assert representations is not None
            words = torch.cat([words, representations[:, self.output_mix]], dim=-1)
        return words

    def _run_layers(self, words: Tensor, mask: Tensor) -> Tensor:
        """(batch, words, width) -> (batch, words, 2 * task_lstm_size), zero at padding."""
        packing = PackedBatch.from_mask(mask)
        packed = packing.pack(words, packing.forward_index)  # [total, width]
        for layer in self.layers:
            packed = functional.dropout(packed, self.dropout, self.training)
            packed = layer(packed, packing)
        return packing.unpack(packed, packing.forward_index)
