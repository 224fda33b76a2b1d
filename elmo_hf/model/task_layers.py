"""Layers of a task model between the biLM and the classifier: word vectors and biLSTMs (paper, section 3.2).

The paper concatenates ELMo to the input of a task's recurrent layers, [x; ELMo], to their output, [h; ELMo], or to
both, with a separate mix for each place.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import biattention
from .configuration_elmo import ElmoConfig
from .encoders import task_layers
from .feed_forward import ElmoFeedForward
from .initialization import InitialValues
from .packing import PackedBatch
from .state import ElmoState
from .task_characters import ElmoTaskCharacters
from .word_embeddings import ElmoWordEmbeddings


class ElmoWordVectors(ElmoWordEmbeddings):
    """Word vectors of a task; initially uniform with an expected squared length of one."""

    @staticmethod
    def first_values(config: ElmoConfig, size: int) -> InitialValues:
        """Uniform, depending on the width of a vector only."""
        return InitialValues("uniform", (3 / size) ** 0.5)


class ElmoTaskLayers(nn.Module):
    """Layers of a task, with ELMo at their input, output or both; each is optional.

    In order: the concatenation [mix; characters; word vector], the feed-forward layers of `pre_encoder_layers`, a
    biLSTM; with `integrator_size`, biattention of the sentence with itself and a second biLSTM over it (McCann et al.
    2017, section 4); the concatenation of ELMo to the output. Without options, the result is the first mix of the
    biLM's layers. Dropout is applied to the inputs of these layers, not to the result.

    Attributes:
        output_size: width of the result.
        input_mix, output_mix: index of the mix that each place reads; `None` for a place without ELMo.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        places = [place for place in ("input", "output") if place in config.elmo_at]
        self.input_mix = places.index("input") if "input" in places else None
        self.output_mix = places.index("output") if "output" in places else None
        width = config.elmo_size if self.input_mix is not None else 0
        self.characters = None
        if config.task_character_size:
            self.characters = ElmoTaskCharacters(config)
            width += self.characters.output_size
        self.word_vectors = None
        if config.word_vector_size:
            self.word_vectors = ElmoWordVectors(config, config.word_vector_size)
            self.word_vectors.requires_grad_(config.train_word_vectors)
            width += config.word_vector_size
        self.dropout = config.task_dropout
        self.pre_encoder = ElmoFeedForward(width, config.pre_encoder_layers, self.dropout)
        width, size = self.pre_encoder.output_size, config.task_lstm_size
        self.layers = task_layers(config, width, size, config.task_lstm_layers if size else 0)
        width, size = 2 * size or width, config.integrator_size
        self.integrator = task_layers(config, 3 * width, size, config.integrator_layers if size else 0)
        self.output_size = config.task_layers_size

    def forward(
        self,
        representations: Tensor | None,
        input_ids: Tensor | None,
        mask: Tensor,
        code_point_ids: Tensor | None = None,
        words_only: Tensor | None = None,
        initial_state: ElmoState | None = None,
    ) -> tuple[Tensor, ElmoState | None]:
        """Encode the words where `mask` is true; padding may be on either side.

        Args:
            representations: (batch, K, words, 2P), the mixes of [`ElmoModel`], zero at padding; `None` without a biLM.
            input_ids: (batch, words), any integer dtype, ids of the task's own word vectors; `None` without them.
            mask: (batch, words), bool.
            code_point_ids: (batch, characters), input of [`ElmoTaskCharacters`]; `None` without it.
            words_only: (batch, words), bool: the positions that the recurrent layers read; by default `mask`.
            initial_state: initial state of the first biLSTM, with as many rows as the batch; zeros by default.

        Returns:
            Features (batch, words, output_size), zero at padding; recurrent layers are zero outside `words_only`. And
            the final state of the first biLSTM, `None` without one.

        Raises:
            ValueError: missing `input_ids` or `code_point_ids`, or ids outside their tables.
        """
        parts = []
        if self.input_mix is not None:
            assert representations is not None
            parts.append(representations[:, self.input_mix])
        if self.characters is not None:
            parts.append(self.characters(self._given("code_point_ids", code_point_ids), mask))
        if self.word_vectors is not None:
            parts.append(self.word_vectors(self._given("input_ids", input_ids), mask=mask))
        words, state = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1), None
        if len(self.layers):
            read = mask if words_only is None else words_only
            words, state = self._run_layers(self.layers, self.pre_encoder(words), read, initial_state)
            if len(self.integrator):
                words, _ = self._run_layers(self.integrator, biattention(words, read), read)
        if self.output_mix is not None:
            assert representations is not None
            words = torch.cat([words, representations[:, self.output_mix]], dim=-1)
        return words, state

    @staticmethod
    def _given(name: str, value: Tensor | None) -> Tensor:
        if value is None:
            reads = {"input_ids": "looks up word vectors (word_vector_size)", "code_point_ids": "reads code points"}
            raise ValueError(
                f"this model {reads[name]} and needs {name}. Pass all that ElmoTokenizer returns, model(**encoding)"
            )
        return value

    def _run_layers(
        self, layers: nn.ModuleList, words: Tensor, mask: Tensor, initial_state: ElmoState | None = None
    ) -> tuple[Tensor, ElmoState | None]:
        """(batch, words, width) -> (batch, words, 2 * layer size), zero at padding, and the new state."""
        packing = PackedBatch.from_mask(mask)
        order, restore = packing.row_order, torch.argsort(packing.row_order)
        packed, finals = packing.pack(words, packing.forward_index), []  # [total, width]
        for number, layer in enumerate(layers):
            packed = functional.dropout(packed, self.dropout, self.training)
            state = None if initial_state is None else tuple(part[number][:, order] for part in initial_state)
            packed, final = layer(packed, packing, state)
            finals.append(final)
        hidden, cell = (torch.stack(parts)[:, :, restore] for parts in zip(*finals, strict=True))
        return packing.unpack(packed, packing.forward_index), ElmoState(hidden, cell)
