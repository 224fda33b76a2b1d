"""The word layer: context-independent word vectors.

They are computed from characters, word embeddings, POS tags, or several of them concatenated. Other files do not
distinguish these kinds: they read `input_names` of a word layer and call it with those tensors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .character_embeddings import ElmoCharacterEmbeddings, distinct_rows
from .conditions import has_nothing_attached, is_traced
from .configuration_elmo import ElmoConfig
from .initialization import glorot_bound, starting_with
from .operators import kept_vectors
from .word_embeddings import ElmoWordEmbeddings, word_embeddings_of
from .word_parts import ElmoTable, ElmoWordPart, scatter_words


class ElmoPosTagEmbeddings(ElmoTable):
    """Embeddings of POS tags: (batch, words) ids -> (batch, words, pos_tag_embedding_size); id 0, no tag, is zero."""

    input_names, table_name = ("pos_tag_ids",), "pos_tag_embeddings"

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        tags = config.num_pos_tags
        self.remedy = (
            f"0 for no tag, and num_pos_tags={tags} others. Create them with the tokenizer that belongs to the "
            "model, whose pos_tag_set has this number of tags"
        )
        self.output_size = config.pos_tag_embedding_size
        table = nn.Embedding(tags + 1, self.output_size, padding_idx=0)
        self.pos_tag_embeddings = starting_with(table, "uniform", glorot_bound(tags, self.output_size))


class ElmoJoinedEmbeddings(ElmoWordPart):
    """Projection of the concatenated parts of the configuration: [word embedding; characters; POS tag].

    Source: ELMoForManyLangs `ConvTokenEmbedder`, which joins the first two.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.words = ElmoWordEmbeddings(config, config.word_embedding_size) if config.word_embedding_size else None
        self.characters = ElmoCharacterEmbeddings(config) if config.character_filters else None
        self.pos_tags = ElmoPosTagEmbeddings(config) if config.num_pos_tags else None
        parts = self._parts()
        self.input_names = tuple(name for part in parts for name in part.input_names)
        width = sum(part.output_size for part in parts)
        self.projection = starting_with(nn.Linear(width, config.projection_size), "normal", width**-0.5)
        self.output_size = config.projection_size

    def _parts(self) -> list[ElmoWordPart]:
        """The parts that exist, in the order of concatenation."""
        return [part for part in (self.words, self.characters, self.pos_tags) if part is not None]

    def real_words(self, ids: Tensor) -> Tensor:
        """(batch, words), bool: positions of words in the first input; as `real_words` of its part."""
        first = self.words or self.characters
        assert first is not None  # POS tags are never the only input
        return first.real_words(ids)

    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """Encode the words where `mask` is true; calls every part, which may have hooks attached."""
        vectors = [part(given, mask=mask)[mask] for part, given in zip(self._parts(), inputs, strict=True)]
        return scatter_words(self.projection(torch.cat(vectors, dim=-1)), mask)

    def rows(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, integers of all parts], int64: inputs of the n words where `mask` is true."""
        return torch.cat([part.rows(given, mask=mask) for part, given in zip(self._parts(), inputs, strict=True)], 1)

    def encode_checked(self, *parts: Tensor) -> Tensor:
        """Results of `checked` -> [n, projection_size]."""
        vectors = [part.encode_checked(given) for part, given in zip(self._parts(), parts, strict=True)]
        return self.projection(torch.cat(vectors, dim=-1))

    def checked(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Check [n, integers of all parts] and split it into the parts; errors as in `forward`."""
        parts = self._parts()
        sizes = [part.max_characters_per_word if isinstance(part, ElmoCharacterEmbeddings) else 1 for part in parts]
        return tuple(
            checked
            for part, given in zip(parts, rows.split(sizes, dim=1), strict=True)
            for checked in part.checked(given)
        )


WordLayer = ElmoWordEmbeddings | ElmoCharacterEmbeddings | ElmoJoinedEmbeddings


class DistinctWords(NamedTuple):
    """Deduplicated words of a batch.

    Attributes:
        vectors: [m, projection_size], one for each distinct word.
        places: [n], int64: for every word of the batch, row by row, its index in `vectors`.
    """

    vectors: Tensor
    places: Tensor


def distinct_words(
    layer: WordLayer, inputs: Sequence[Tensor], mask: Tensor, kept_megabytes: float | None
) -> DistinctWords | None:
    """Encode each distinct word of a batch once; `None` if the word layer must be called instead.

    It must be called if it has hooks, is trained or traced, or if there are no words.

    Args:
        inputs: (batch, words, ...), as for a call of the layer.
        mask: (batch, words), bool.
        kept_megabytes: maximum size of the cache of word vectors in MB; `None` for no cache.

    Raises:
        ValueError: the cache is on and the word layer is trained; otherwise as a call of the layer.
    """
    weights = [*layer.parameters(), *layer.buffers()]
    trains = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    if trains and kept_megabytes is not None:
        raise ValueError(
            "word vectors are cached between batches (cache_word_vectors) but the word layer is trainable, and cached "
            "vectors have no gradient. Run without gradients (torch.no_grad()), freeze the biLM (freeze_bilm()), or "
            "turn the cache off (cache_word_vectors(None))"
        )
    if trains or is_traced() or not all(map(has_nothing_attached, (layer, *layer.children()))):
        return None
    rows = layer.rows(*inputs, mask=mask)
    if not len(rows):
        return None
    distinct, places = distinct_rows(rows)
    if kept_megabytes is None or not all(map(_is_constant, layer.modules())):
        return DistinctWords(layer.encode_rows(distinct), places)
    return DistinctWords(kept_vectors(layer, kept_megabytes, distinct, weights, layer.encode_rows), places)


def _is_constant(module: nn.Module) -> bool:
    """True if a module's output depends on its weights and inputs only; an adapter is also switched by attributes."""
    home = type(module).__module__
    is_known = home.startswith("torch.nn.modules.") or home.rpartition(".")[0] == __name__.rpartition(".")[0]
    return is_known and has_nothing_attached(module)


def word_layer(config: ElmoConfig) -> WordLayer:
    """The word layer of a configuration: (batch, words, ...) inputs -> (batch, words, projection_size)."""
    if config.joins_words:
        return ElmoJoinedEmbeddings(config)
    return word_embeddings_of(config) if config.word_embedding_size else ElmoCharacterEmbeddings(config)


def word_table_of(layer: nn.Module | None) -> ElmoWordEmbeddings | None:
    """The word embeddings of a word layer, or `None`."""
    table = layer.words if isinstance(layer, ElmoJoinedEmbeddings) else layer
    return table if isinstance(table, ElmoWordEmbeddings) else None


def character_embeddings_of(layer: nn.Module | None) -> ElmoCharacterEmbeddings | None:
    """The character CNN of a word layer, or `None`."""
    characters = layer.characters if isinstance(layer, ElmoJoinedEmbeddings) else layer
    return characters if isinstance(characters, ElmoCharacterEmbeddings) else None
