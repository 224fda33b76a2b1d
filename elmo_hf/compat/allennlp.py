"""AllenNLP's ELMo API for this package's models.

`Elmo`, `ElmoTokenEmbedder`, `ScalarMix`, `batch_to_ids`, the character mapper and the CRFs follow AllenNLP 2.10;
`ElmoEmbedder` follows 0.9, the last version that had it.

As in the originals, state is carried from batch to batch, row by row, in training and in evaluation, so a model gives
different numbers for the same sentence each time. `elmo._elmo_lstm._elmo_lstm.reset_states()` clears it, and
`elmo._elmo_lstm._elmo_lstm.stateful = False` reads every batch from zero states.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, Any, Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elmo_hf.atomic import appearing
from elmo_hf.inference.loading import Name
from elmo_hf.model.base_model import ElmoModel
from elmo_hf.model.scalar_mix import normalize_layer
from elmo_hf.model.state import ElmoState
from elmo_hf.tokenizer.characters import ByteSpelling, character_ids_of_boundaries

from .allennlp_crf import (
    ConditionalRandomField,
    ConditionalRandomFieldWeightEmission,
    ConditionalRandomFieldWeightLannoy,
    ConditionalRandomFieldWeightTrans,
    allowed_transitions,
)
from .errors import ConfigurationError
from .loading import read_bilm

__all__ = [
    "ConditionalRandomField",
    "ConditionalRandomFieldWeightEmission",
    "ConditionalRandomFieldWeightLannoy",
    "ConditionalRandomFieldWeightTrans",
    "ConfigurationError",
    "ELMoCharacterMapper",
    "Elmo",
    "ElmoEmbedder",
    "ElmoTokenEmbedder",
    "ScalarMix",
    "allowed_transitions",
    "batch_to_ids",
]

_ADDRESS = (
    "https://allennlp.s3.amazonaws.com/models/elmo/2x4096_512_2048cnn_2xhighway/elmo_2x4096_512_2048cnn_2xhighway_"
)
DEFAULT_OPTIONS_FILE, DEFAULT_WEIGHT_FILE = f"{_ADDRESS}options.json", f"{_ADDRESS}weights.hdf5"
DEFAULT_BATCH_SIZE = 64


# -- Words to characters -----------------------------------------------------------------------------------------------


class ELMoCharacterMapper:
    """Mapper from words to rows of character ids, all shifted by one.

    Args:
        tokens_to_add: additional words, each with its own character id below 261 instead of its letters.
    """

    max_word_length = 50
    bos_token, eos_token = "<S>", "</S>"

    def __init__(self, tokens_to_add: Mapping[str, int] | None = None) -> None:
        self.tokens_to_add = dict(tokens_to_add or {})

    def convert_word_to_char_ids(self, word: str) -> list[int]:
        """Character ids of a word, a list of 50."""
        return self.rows([word])[0].tolist()

    def rows(self, words: Sequence[str]) -> NDArray[np.int16]:
        """Character ids of many words at once, (words, 50)."""
        spelling = ByteSpelling(self.max_word_length, self.tokens_to_add)
        rows = spelling.rows(words)
        for token, row in zip((self.bos_token, self.eos_token), spelling.boundary_rows(), strict=True):
            if token not in self.tokens_to_add:
                rows[[place for place, word in enumerate(words) if word == token]] = row
        return rows


def batch_to_ids(batch: Sequence[Sequence[str]], tokens_to_add: Mapping[str, int] | None = None) -> Tensor:
    """Convert tokenized sentences to character ids, without sentence boundaries.

    Args:
        batch: sentences as lists of words.
        tokens_to_add: as in `ELMoCharacterMapper`; in the original an option of the indexer.

    Returns:
        (sentences, longest sentence, 50), int64, padded with zeros.
    """
    lengths = [len(sentence) for sentence in batch]
    ids = np.zeros((len(batch), max(lengths, default=0), ELMoCharacterMapper.max_word_length), np.int64)
    rows = ELMoCharacterMapper(tokens_to_add).rows([word for sentence in batch for word in sentence])
    ids[np.arange(ids.shape[1]) < np.array(lengths, np.int64)[:, None]] = rows
    return torch.from_numpy(ids)


def _with_boundaries(values: Tensor, mask: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Add boundaries before the first and after the last word of each row of values (batch, words, ...) and mask."""
    rows, words = mask.shape
    lengths = mask.sum(dim=1)
    wider = values.new_zeros(rows, words + 2, *values.shape[2:])
    wider[:, 1:-1] = values
    wider[:, 0] = begin
    wider[torch.arange(rows, device=values.device), lengths + 1] = end.to(wider)
    return wider, torch.arange(words + 2, device=values.device) < (lengths + 2).unsqueeze(1)


def _without_boundaries(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Remove the boundaries again; rows without words become zeros."""
    inner = torch.arange(mask.shape[1] - 2, device=mask.device) < (mask.sum(dim=1) - 2).unsqueeze(1)
    return values[:, 1:-1] * inner.unsqueeze(-1).to(values.dtype), inner


# -- The biLM ----------------------------------------------------------------------------------------------------------


class _CarriedBiLm(nn.Module):
    """The model with the state of its rows; offers those parts of AllenNLP's `ElmoLstm` that old code accesses.

    Attributes:
        stateful: True if a batch starts from the final state of the previous one.
    """

    def __init__(self, model: ElmoModel) -> None:
        super().__init__()
        self.model, self.stateful = model, True
        self._states: ElmoState | None = None

    def forward(self, mask: Tensor, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute all layers, each (batch, words, 2P)."""
        initial = self._states if self.stateful else None
        output = self.model(
            attention_mask=mask, initial_state=initial, return_state=True, output_hidden_states=True, **inputs
        )
        if self.stateful and output.state is not None:
            self._states = output.state.detach()
        return output.hidden_states

    def reset_states(self, mask: Tensor | None = None) -> None:
        """Clear the state of all rows, or of those where `mask` (rows,) is true.

        Raises:
            ValueError: `mask` and the state have different numbers of rows.
        """
        if mask is None:
            self._states = None
        elif self._states is None or len(mask) != self._states.hidden.shape[2]:
            rows = 0 if self._states is None else self._states.hidden.shape[2]
            raise ValueError(f"mask has {len(mask)} rows: expected {rows}, those of the state")
        else:
            self._states = self._states.reset(mask.bool().to(self._states.hidden.device).expand(2, -1))


class _ElmoBiLm(nn.Module):
    """biLM that maps character ids to all layers; arguments as in `Elmo`."""

    _boundaries: Tensor
    _boundary_embeddings: Tensor

    def __init__(
        self,
        options_file: Name,
        weight_file: Name | None,
        requires_grad: bool = False,
        vocab_to_cache: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        model, _ = read_bilm(options_file, weight_file)
        if not model.config.character_filters or model.config.joins_words:
            raise ConfigurationError(
                f"{os.fspath(options_file)}: a model that reads words by their id, or joined to something: these "
                "classes feed characters alone. Use elmo_hf.embed, or AutoModel"
            )
        if requires_grad:
            model.requires_grad_(True)
            model.scalar_mixes.requires_grad_(False)
        self._elmo_lstm = _CarriedBiLm(model)
        self.num_layers: int = model.config.num_mixed_layers
        boundaries = character_ids_of_boundaries(model.config.max_characters_per_word).astype(np.int64)
        self.register_buffer("_boundaries", torch.from_numpy(boundaries), persistent=False)
        self._word_embedding: nn.Embedding | None = None
        if vocab_to_cache:
            self.create_cached_cnn_embeddings(vocab_to_cache)

    def get_output_dim(self) -> int:
        """Width of a layer."""
        return self._elmo_lstm.model.config.hidden_size

    def create_cached_cnn_embeddings(self, tokens: Sequence[str]) -> None:
        """Cache the vectors of words, to be looked up by their index in the list; index 0 is padding."""
        model = self._elmo_lstm.model
        ids = batch_to_ids([[ELMoCharacterMapper.bos_token, ELMoCharacterMapper.eos_token, *tokens]]).to(model.device)
        with torch.no_grad():
            vectors = model.embeddings(ids, mask=torch.ones(ids.shape[:2], dtype=torch.bool, device=ids.device))[0]
        trains = any(weight.requires_grad for weight in model.embeddings.parameters())
        self._word_embedding = nn.Embedding.from_pretrained(vectors[2:].clone(), freeze=not trains, padding_idx=0)
        with torch.no_grad():
            self._word_embedding.weight[0] = 0
        self.register_buffer("_boundary_embeddings", vectors[:2].clone(), persistent=False)

    def forward(self, inputs: Tensor, word_inputs: Tensor | None = None) -> dict[str, Any]:
        """Run the biLM.

        Args:
            inputs: (batch, words, 50), character ids without boundaries.
            word_inputs: (batch, words), indices into the cached vocabulary. A batch with an index outside of it is read
                by its characters.

        Returns:
            `activations`, the layers (batch, words + 2, 2P), zero at padding; `mask` (batch, words + 2), bool.
        """
        table = self._word_embedding
        if table is not None and word_inputs is not None and _are_known(word_inputs, table.num_embeddings):
            begin, end = self._boundary_embeddings
            vectors, mask = _with_boundaries(table(word_inputs), word_inputs > 0, begin, end)
            layers = self._elmo_lstm(mask, inputs_embeds=vectors)
        else:
            begin, end = self._boundaries
            ids, mask = _with_boundaries(inputs, (inputs > 0).any(dim=-1), begin, end)
            layers = self._elmo_lstm(mask, character_ids=ids)
        return {"activations": list(layers), "mask": mask}


def _are_known(ids: Tensor, count: int) -> bool:
    return not ids.numel() or (int(ids.min()) >= 0 and int(ids.max()) < count)


# -- Representations ---------------------------------------------------------------------------------------------------


class ScalarMix(nn.Module):
    """gamma * sum_k softmax(s)_k * tensor_k.

    Args:
        mixture_size: number of tensors.
        do_layer_norm: normalize each tensor by its mean and variance over the unmasked positions.
        initial_scalar_parameters: initial values of s; `None` for zeros.
        trainable: train s and gamma.

    Raises:
        ConfigurationError: the number of initial values, or of tensors, is not `mixture_size`.
    """

    def __init__(
        self,
        mixture_size: int,
        do_layer_norm: bool = False,
        initial_scalar_parameters: Sequence[float] | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.mixture_size, self.do_layer_norm = mixture_size, do_layer_norm
        initial = [0.0] * mixture_size if initial_scalar_parameters is None else list(initial_scalar_parameters)
        if len(initial) != mixture_size:
            raise ConfigurationError(
                f"initial_scalar_parameters has {len(initial)} values: expected mixture_size={mixture_size}"
            )
        self.scalar_parameters = nn.ParameterList(
            nn.Parameter(torch.tensor([value], dtype=torch.float32), requires_grad=trainable) for value in initial
        )
        self.gamma = nn.Parameter(torch.ones(1), requires_grad=trainable)

    def forward(self, tensors: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Mix tensors of one shape, (..., width).

        Args:
            mask: (...), the positions that count for the statistics; all positions are normalized. Unused without
                `do_layer_norm`.
        """
        if len(tensors) != self.mixture_size:
            raise ConfigurationError(f"{len(tensors)} tensors given: expected mixture_size={self.mixture_size}")
        shares = torch.softmax(torch.cat(list(self.scalar_parameters)), dim=0)
        if self.do_layer_norm:
            if mask is None:
                raise ConfigurationError("mask=None with do_layer_norm: expected the positions that count")
            # AllenNLP's `tiny_value_of_dtype`.
            epsilon = 1e-4 if tensors[0].dtype == torch.float16 else 1e-13
            tensors = [normalize_layer(tensor, mask, epsilon) for tensor in tensors]
        return self.gamma * sum(share * tensor for share, tensor in zip(shares, tensors, strict=True))


class Elmo(nn.Module):
    """ELMo representations of batches of character ids.

    Args:
        options_file: path or URL of the original's `options.json`; or a folder of this package, or a Hub name, with
            `None` or the same value for `weight_file`.
        weight_file: path or URL of the HDF5 weights.
        num_output_representations: number of mixes.
        requires_grad: train the biLM.
        do_layer_norm, scalar_mix_parameters: options of the mixes. Given parameters are not trained, and neither is
            gamma.
        dropout: dropout of the representations, in training.
        vocab_to_cache: words whose vectors are cached, for `word_inputs`; index 0 is padding.
        keep_sentence_boundaries: also return the vectors of `<S>` and `</S>`.
        module: used instead of the original's files: a module with `num_layers` that maps inputs to `activations` and
            `mask`.

    Raises:
        ConfigurationError: contradictory arguments.
        OSError, ValueError: a model that cannot be read.
    """

    def __init__(
        self,
        options_file: Name | None,
        weight_file: Name | None,
        num_output_representations: int,
        requires_grad: bool = False,
        do_layer_norm: bool = False,
        dropout: float = 0.5,
        vocab_to_cache: Sequence[str] | None = None,
        keep_sentence_boundaries: bool = False,
        scalar_mix_parameters: Sequence[float] | None = None,
        module: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if module is not None:
            if options_file is not None or weight_file is not None:
                raise ConfigurationError("options_file or weight_file beside module: expected None for both")
            self._elmo_lstm: Any = module
        elif options_file is None:
            raise ConfigurationError("options_file=None: expected a file or folder, or a module")
        else:
            self._elmo_lstm = _ElmoBiLm(options_file, weight_file, requires_grad, vocab_to_cache)
        self._has_cached_vocab = vocab_to_cache is not None
        self._keep_sentence_boundaries = keep_sentence_boundaries
        self._dropout = nn.Dropout(dropout)
        self._count = num_output_representations
        for number in range(num_output_representations):
            mix = ScalarMix(
                self._elmo_lstm.num_layers, do_layer_norm, scalar_mix_parameters, scalar_mix_parameters is None
            )
            self.add_module(f"scalar_mix_{number}", mix)

    def get_output_dim(self) -> int:
        """Width of a representation."""
        return self._elmo_lstm.get_output_dim()

    def forward(self, inputs: Tensor, word_inputs: Tensor | None = None) -> dict[str, Any]:
        """Compute the representations.

        Args:
            inputs: (batch, words, 50); further axes before the words are flattened into one batch.
            word_inputs: indices into the cached vocabulary; the same shape without the last axis.

        Returns:
            `elmo_representations`, a list of tensors shaped like the inputs with a last axis of 2P; `mask`, bool.
            Padding is zero unless, as in the original, boundaries are kept and a layer norm shifts it.
        """
        shape = inputs.shape[:-1]
        if word_inputs is not None and self._has_cached_vocab:
            shape = word_inputs.shape
            word_inputs = word_inputs.flatten(0, -2)
        output = self._elmo_lstm(inputs.flatten(0, -3), word_inputs if self._has_cached_vocab else None)
        layers, mask = output["activations"], output["mask"]
        representations = []
        inner = mask
        for number in range(self._count):
            mixed = getattr(self, f"scalar_mix_{number}")(layers, mask)
            if not self._keep_sentence_boundaries:
                mixed, inner = _without_boundaries(mixed, mask)
            representations.append(self._dropout(mixed))
        if not self._keep_sentence_boundaries:
            inner = inner.view(shape)
            representations = [values.view(*shape, values.shape[-1]) for values in representations]
        elif len(shape) > 2:
            inner = inner.view(*shape[:-1], inner.shape[-1])
            representations = [values.view(*shape[:-1], *values.shape[1:]) for values in representations]
        return {"elmo_representations": representations, "mask": inner}


class ElmoTokenEmbedder(nn.Module):
    """A single representation with an optional projection.

    Args:
        projection_dim: width of a linear layer after the representation; `None` for none.

    Other arguments are those of `Elmo`.
    """

    def __init__(
        self,
        options_file: Name = DEFAULT_OPTIONS_FILE,
        weight_file: Name | None = DEFAULT_WEIGHT_FILE,
        do_layer_norm: bool = False,
        dropout: float = 0.5,
        requires_grad: bool = False,
        projection_dim: int | None = None,
        vocab_to_cache: Sequence[str] | None = None,
        scalar_mix_parameters: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._elmo = Elmo(
            options_file,
            weight_file,
            1,
            requires_grad=requires_grad,
            do_layer_norm=do_layer_norm,
            dropout=dropout,
            vocab_to_cache=vocab_to_cache,
            scalar_mix_parameters=scalar_mix_parameters,
        )
        width = self._elmo.get_output_dim()
        self._projection = nn.Linear(width, projection_dim) if projection_dim else None
        self.output_dim = projection_dim or width

    def get_output_dim(self) -> int:
        """Width of the result."""
        return self.output_dim

    def forward(self, elmo_tokens: Tensor, word_inputs: Tensor | None = None) -> Tensor:
        """Compute the representation, shaped like the inputs; arguments as in `Elmo`."""
        values = self._elmo(elmo_tokens, word_inputs)["elmo_representations"][0]
        return values if self._projection is None else self._projection(values)


# -- Arrays and files --------------------------------------------------------------------------------------------------


class ElmoEmbedder:
    """Embedder of sentences into NumPy arrays (layers, words, 2P), with state carried from batch to batch.

    Args:
        options_file, weight_file: as in `Elmo`.
        cuda_device: number of a GPU, or -1 for the CPU.
    """

    def __init__(
        self,
        options_file: Name = DEFAULT_OPTIONS_FILE,
        weight_file: Name | None = DEFAULT_WEIGHT_FILE,
        cuda_device: int = -1,
    ) -> None:
        self.elmo_bilm = _ElmoBiLm(options_file, weight_file)
        if cuda_device >= 0:
            self.elmo_bilm = self.elmo_bilm.cuda(cuda_device)
        self.cuda_device = cuda_device

    @torch.no_grad()
    def batch_to_embeddings(self, batch: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Tensors (sentences, layers, words, 2P), zero at padding, and their mask (sentences, words), bool."""
        ids = batch_to_ids(batch)
        output = self.elmo_bilm(ids.cuda(self.cuda_device) if self.cuda_device >= 0 else ids)
        mask = output["mask"]
        layers = [_without_boundaries(layer, mask) for layer in output["activations"]]
        return torch.stack([values for values, _ in layers], dim=1), layers[0][1]

    def embed_sentence(self, sentence: Sequence[str]) -> NDArray[Any]:
        """The layers of one sentence, a list of words."""
        return self.embed_batch([sentence])[0]

    def embed_batch(self, batch: Sequence[Sequence[str]]) -> list[NDArray[Any]]:
        """The layers of each sentence of a batch; an empty sentence has 0 words.

        A batch of a single empty sentence does not change the state.
        """
        if [list(sentence) for sentence in batch] == [[]]:
            return [np.zeros((self.elmo_bilm.num_layers, 0, self.elmo_bilm.get_output_dim()), np.float32)]
        layers, mask = self.batch_to_embeddings(batch)
        lengths = mask.sum(dim=1).tolist()
        return [row[:, :length].cpu().numpy() for row, length in zip(layers, lengths, strict=True)]

    def embed_sentences(
        self, sentences: Iterable[Sequence[str]], batch_size: int = DEFAULT_BATCH_SIZE
    ) -> Iterator[NDArray[Any]]:
        """The layers of each sentence of a stream, read in batches."""
        stream = iter(sentences)
        while batch := list(islice(stream, batch_size)):
            yield from self.embed_batch(batch)

    def embed_file(
        self,
        input_file: IO[str],
        output_file_path: str | os.PathLike[str],
        output_format: Literal["all", "top", "average"] = "all",
        batch_size: int = DEFAULT_BATCH_SIZE,
        forget_sentences: bool = False,
        use_sentence_keys: bool = False,
    ) -> None:
        """Write an HDF5 file with a float32 dataset for each line, named by its number from 0.

        Args:
            input_file: lines of words.
            output_file_path: the file, which appears when it is complete.
            output_format: all layers (layers, words, 2P), the top one, or the mean of all (words, 2P).
            batch_size: lines per batch.
            forget_sentences: omit `sentence_to_index`, a JSON object from line to number.
            use_sentence_keys: name each dataset by its line instead, without an index.

        Raises:
            ConfigurationError: an unknown format, blank lines, or repeated lines with `use_sentence_keys`.
        """
        if output_format not in ("all", "top", "average"):
            raise ConfigurationError(f"output_format={output_format!r}: expected 'all', 'top' or 'average'")
        lines = [line.strip() for line in input_file]
        blank = [number for number, line in enumerate(lines) if not line]
        if blank:
            raise ConfigurationError(f"lines {blank} (from 0) are blank: remove them")
        arrays = self.embed_sentences((line.split() for line in lines), batch_size)
        with appearing(output_file_path) as aside, h5py.File(aside, "w") as file:
            for number, (line, array) in enumerate(zip(lines, arrays, strict=True)):
                key = line if use_sentence_keys else str(number)
                if key in file:
                    raise ConfigurationError(
                        f"line {number} (from 0), {line!r:.60}, has its name in HDF5 already: with use_sentence_keys "
                        "names must differ. Remove it, or leave use_sentence_keys out"
                    )
                chosen = {"all": array, "top": array[-1], "average": array.mean(axis=0)}[output_format]
                file.create_dataset(key, data=chosen, dtype="float32")
            if not (forget_sentences or use_sentence_keys):
                index = json.dumps({line: str(number) for number, line in enumerate(lines)})
                file.create_dataset("sentence_to_index", data=[index], dtype=h5py.string_dtype())
