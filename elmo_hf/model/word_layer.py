"""The word layer: what a model knows of a word before it has read any other.

Its characters, its row of a table, its part of speech, or several of them joined. This file alone knows the kinds: all
others ask a word layer for `input_names`, the tensors that it reads, and call it with those.
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
from .word_parts import ElmoTable, ElmoWordPart, in_places


class ElmoPosTagEmbeddings(ElmoTable):
    """(batch, words) ids of parts of speech -> (batch, words, pos_tag_embedding_size); id 0 is none, and zeros."""

    input_names, table_name = ("pos_tag_ids",), "pos_tag_embeddings"

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        tags = config.num_pos_tags
        self.remedy = (
            f"0 is none, and the others are num_pos_tags={tags}. Make them with the tokenizer that belongs to the "
            "model, whose pos_tag_set has so many tags"
        )
        self.output_size = config.pos_tag_embedding_size
        table = nn.Embedding(tags + 1, self.output_size, padding_idx=0)
        self.pos_tag_embeddings = starting_with(table, "uniform", glorot_bound(tags, self.output_size))


class ElmoJoinedEmbeddings(ElmoWordPart):
    """projection([word; characters; part of speech]), of the parts that the configuration has.

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
        """Those that there are, in the order of their vectors."""
        return [part for part in (self.words, self.characters, self.pos_tags) if part is not None]

    def real_words(self, ids: Tensor) -> Tensor:
        """Which positions of the first input hold words, as its own part has it."""
        first = self.words or self.characters
        assert first is not None  # parts of speech never stand alone
        return first.real_words(ids)

    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """As of a part, but every part is called: something may be attached to it."""
        vectors = [part(given, mask=mask)[mask] for part, given in zip(self._parts(), inputs, strict=True)]
        return in_places(self.projection(torch.cat(vectors, dim=-1)), mask)

    def rows(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, integers of all parts], int64: what is read of the n words that `mask` marks."""
        return torch.cat([part.rows(given, mask=mask) for part, given in zip(self._parts(), inputs, strict=True)], 1)

    def encode_checked(self, *parts: Tensor) -> Tensor:
        """What `checked` returned -> [n, projection_size]."""
        vectors = [part.encode_checked(given) for part, given in zip(self._parts(), parts, strict=True)]
        return self.projection(torch.cat(vectors, dim=-1))

    def checked(self, rows: Tensor) -> tuple[Tensor, ...]:
        """[n, integers of all parts] -> those of each part, checked; errors as in `forward`."""
        parts = self._parts()
        sizes = [part.max_characters_per_word if isinstance(part, ElmoCharacterEmbeddings) else 1 for part in parts]
        return tuple(
            checked
            for part, given in zip(parts, rows.split(sizes, dim=1), strict=True)
            for checked in part.checked(given)
        )


WordLayer = ElmoWordEmbeddings | ElmoCharacterEmbeddings | ElmoJoinedEmbeddings


class DistinctWords(NamedTuple):
    """The words of a batch, those that recur only once.

    Attributes:
        vectors: [m, projection_size].
        places: [n], int64: for every real word of the batch, row by row, where it is in `vectors`.
    """

    vectors: Tensor
    places: Tensor


def distinct_words(
    layer: WordLayer, inputs: Sequence[Tensor], mask: Tensor, kept_megabytes: float | None
) -> DistinctWords | None:
    """What calling the word layer would give, each word once; `None` where it has to be called.

    That is where something is attached to it, where it trains or is traced, and where there are no words.

    Args:
        inputs: (batch, words, ...), as for a call.
        mask: (batch, words), bool.
        kept_megabytes: bound of the vectors kept between batches, in MB; `None` to keep none.

    Raises:
        ValueError: vectors are kept while the word layer trains; otherwise as a call.
    """
    weights = [*layer.parameters(), *layer.buffers()]
    trains = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    if trains and kept_megabytes is not None:
        raise ValueError(
            "word vectors are kept between batches (cache_word_vectors) and the word layer that makes them is "
            "trainable: they would go without a gradient. Run without gradients (torch.no_grad()), freeze the biLM "
            "(freeze_bilm()), or turn the cache off (cache_word_vectors(None))"
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
    """Whether what a module gives depends on its weights alone: an adapter is switched by attributes of its own."""
    home = type(module).__module__
    is_known = home.startswith("torch.nn.modules.") or home.rpartition(".")[0] == __name__.rpartition(".")[0]
    return is_known and has_nothing_attached(module)


def word_layer(config: ElmoConfig) -> WordLayer:
    """The word layer of a configuration: (batch, words, ...) inputs -> (batch, words, projection_size)."""
    if config.joins_words:
        return ElmoJoinedEmbeddings(config)
    return word_embeddings_of(config) if config.word_embedding_size else ElmoCharacterEmbeddings(config)


def word_table_of(layer: nn.Module | None) -> ElmoWordEmbeddings | None:
    """The table of words of a word layer, if it has one."""
    table = layer.words if isinstance(layer, ElmoJoinedEmbeddings) else layer
    return table if isinstance(table, ElmoWordEmbeddings) else None


def character_embeddings_of(layer: nn.Module | None) -> ElmoCharacterEmbeddings | None:
    """The character encoder of a word layer, if it has one."""
    characters = layer.characters if isinstance(layer, ElmoJoinedEmbeddings) else layer
    return characters if isinstance(characters, ElmoCharacterEmbeddings) else None
