"""Embedding of the sentences of one shard into its file."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.shards import Record
from elmo_hf.corpus.tagged_text import Sentence, TaggedSentence
from elmo_hf.corpus.word_encoder import line_splitter
from elmo_hf.inference.batching import pools
from elmo_hf.inference.carried_state import CarriedState
from elmo_hf.inference.documents import read_by_chunks, why_not_by_chunks
from elmo_hf.inference.embedding import Embedder, Layers, Vectors, check_layers, open_embedder
from elmo_hf.inference.quantization import quantize
from elmo_hf.tokenizer.pretokenization import check_pre_tokenization

from .plan import Shard, words_by_whitespace
from .shard_parts import ShardPart
from .writers import WRITERS, Entry, Format, VectorType


@dataclass(frozen=True)
class ShardEmbedder:
    """Embedder of shards, independently or from a carried state.

    Attributes:
        embedder: the model and its tokenizer.
        pre_tokenization: rule that splits texts into words.
        chunk_words: longer sentences are read in chunks of this many words.
        word_cache_megabytes: size of the cache of word vectors within a shard; `None` for none.
        carried: the state before and after each sentence; `None` to read sentences independently.
    """

    embedder: Embedder
    pre_tokenization: str
    chunk_words: int
    word_cache_megabytes: float | None
    carried: CarriedState | None = None

    @property
    def vector_type(self) -> VectorType:
        """Type of all vectors; needs an embedder with a dtype for stored vectors."""
        config = self.embedder.model.config
        return VectorType(
            config.num_mixed_layers if self.embedder.layers == "all" else None,
            config.hidden_size,
            np.dtype(str(self.embedder.stored).removeprefix("torch.")),
        )

    def embedded(self, records: Iterable[Record]) -> Iterator[tuple[Entry, Iterable[Vectors]]]:
        """Vectors of each sentence, in order; those of a long sentence in consecutive parts.

        Raises:
            ValueError: a sentence is too long for the model, or vectors exceed `float16`.
        """
        self._forget_words()
        return self._embedded(self._entries(0, records))

    def write(
        self, shard: Shard, records: list[Record], path: Path, file_format: Format, part: ShardPart | None = None
    ) -> Generator[int, None, None]:
        """Write the file of a shard.

        Args:
            shard, records: the shard and its sentences.
            path, file_format: path and format of the file.
            part: place of an interrupted shard, to continue from and to write to; `None` to always start over.

        Yields:
            Number of words of each written sentence, as counted by the plan.

        Raises:
            ValueError: a sentence is too long for the model or the format, or vectors exceed `float16`.
            OSError: the file cannot be written.
        """
        self._forget_words()
        entries, vectors = self._entries(shard.first, records), self.vector_type
        numbers = {"sentences": len(entries), "words": sum(len(entry.words) for entry in entries)}
        writer = WRITERS[file_format](path, entries, vectors, numbers)
        written = 0
        try:
            if part is not None:
                for entry, array in part.read(entries, vectors):
                    writer.write(entry, [array])
                    written += 1
                    yield entry.size
            for entry, parts in self._embedded(entries[written:]):
                writer.write(entry, parts)
                written += 1
                yield entry.size
            writer.close()
        except (KeyboardInterrupt, GeneratorExit):
            with suppress(Exception):  # sentences that cannot be kept are embedded again later
                writer.close()
                if part is not None:
                    part.keep(path, max((end for end in self._ends(entries) if end <= written), default=0))
            raise
        except BaseException:
            # The first error is more useful than an error from closing a broken file.
            with suppress(Exception):
                writer.close()
            raise

    def warm_up(self, records: Iterable[Record]) -> None:
        """Read sentences only to update the carried state."""
        for _, parts in self._embedded(self._entries(0, records)):
            deque(parts, maxlen=0)

    def _forget_words(self) -> None:
        """Clear the cache of words, so that not even rounding depends on earlier shards of the process."""
        if self.word_cache_megabytes is not None:
            self.embedder.model.cache_word_vectors(self.word_cache_megabytes)

    def _entries(self, first: int, records: Iterable[Record]) -> list[Entry]:
        split = line_splitter(self.embedder.tokenizer, self.pre_tokenization)
        return [self._entry(number, record, split) for number, record in enumerate(records, start=first)]

    def _entry(self, number: int, record: Record, split: Callable[[Sentence], list[str]]) -> Entry:
        sentence, tags = record.sentence, None
        if isinstance(sentence, TaggedSentence):
            words, tags = list(sentence.words), sentence.tags
        else:
            words = split(sentence)
        length, config = self.embedder.length(words), self.embedder.model.config
        most = config.max_position_embeddings
        if config.encoder_type == "transformer" and most is not None and length > most:
            raise ValueError(
                f"{record.where}: a sentence of {length:,} words, boundaries included: this Transformer reads at most "
                f"{most:,}. Split it"
            )
        if not self.embedder.boundaries:
            length = len(words)
        return Entry(number, record, words, length, words_by_whitespace(record), tags)

    def _is_long(self, entry: Entry) -> bool:
        return len(entry.words) > self.chunk_words and why_not_by_chunks(self.embedder) is None

    def _ends(self, entries: list[Entry]) -> Iterator[int]:
        """Numbers of sentences after which reading can be interrupted and continued with the same vectors."""
        end, embedder = 0, self.embedder
        for long, group in groupby(entries, self._is_long):
            if long:
                together = [[entry] for entry in group]
            else:
                together = list(
                    pools(group, lambda entry: embedder.length(entry.words), embedder.batch_size, embedder.window)
                )
            for pool in together:
                end += len(pool)
                yield end

    def _embedded(self, entries: list[Entry]) -> Iterator[tuple[Entry, Iterable[Vectors]]]:
        """Vectors of each sentence, in order; those of a long sentence in chunks."""
        embedder, carried = self.embedder, self.carried
        rows = len(entries) if carried is None else carried.rows
        for start in range(0, len(entries), max(1, rows)):
            row = 0
            for long, group in groupby(entries[start : start + rows], self._is_long):
                together = list(group)
                if long:
                    for number, entry in enumerate(together, start=row):
                        parts = read_by_chunks(embedder, entry.words, self.chunk_words, entry.tags, carried, number)
                        yield entry, self._checked(entry, parts)
                else:
                    sentences = [
                        entry.words if entry.tags is None else TaggedSentence(entry.words, entry.tags)
                        for entry in together
                    ]
                    arrays = embedder.run(sentences) if carried is None else embedder.read_rows(sentences, carried, row)
                    for entry, array in zip(together, arrays, strict=True):
                        yield entry, self._checked(entry, [array])
                row += len(together)

    def _checked(self, entry: Entry, parts: Iterable[Vectors]) -> Iterable[Vectors]:
        return _finite(entry, parts) if self.embedder.stored == torch.float16 else parts


DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker that loads its model itself; their meaning is that of [`embed_corpus`].

    Raises:
        ValueError: an invalid option.
    """

    model: str | None
    layers: Layers = "mix"
    boundaries: bool = False
    dtype: str = "float32"
    pre_tokenization: str | None = None
    batch_words: int | None = None
    chunk_words: int = 2048
    device: str | None = None
    model_dtype: torch.dtype | None = None
    int8: bool = False
    word_cache_megabytes: float | None = 256.0

    def __post_init__(self) -> None:
        check_layers(self.layers)
        check_stored(self.dtype, self.pre_tokenization)
        at_least_one(batch_words=self.batch_words, chunk_words=self.chunk_words)

    def open(self, if_untagged: str | None) -> ShardEmbedder:
        """Load the model; one with POS tags is refused with the expectation `if_untagged`, unless that is `None`."""
        stored = DTYPES[self.dtype]
        embedder = open_embedder(
            self.model, None, self.layers, self.boundaries, self.batch_words, 8, self.device, self.model_dtype, stored
        )
        if if_untagged is not None:
            embedder.refuse_without_pos_tags(if_untagged)
        if self.int8:
            quantize(embedder.model)
        rule = self.pre_tokenization or embedder.tokenizer.corpus_pre_tokenization
        return ShardEmbedder(embedder, rule, self.chunk_words, cache_of(embedder, self.word_cache_megabytes))


def check_stored(dtype: str, pre_tokenization: str | None) -> None:
    """Raise `ValueError` for an unknown dtype of stored vectors, or an unknown rule."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected 'float32' or 'float16'")
    if pre_tokenization is not None:
        check_pre_tokenization(pre_tokenization)


def cache_of(embedder: Embedder, megabytes: float | None) -> float | None:
    """Size of the cache of word vectors: `megabytes` for a model of characters on a CPU, else `None`."""
    keeps_words = embedder.model.device.type == "cpu" and bool(embedder.model.config.character_filters)
    return megabytes if keeps_words else None


def _finite(entry: Entry, parts: Iterable[Vectors]) -> Iterator[Vectors]:
    for part in parts:
        if not np.isfinite(part).all():
            raise ValueError(
                f"{entry.where}: vectors of this sentence are not finite in float16, whose largest number is 65,504. "
                "Choose dtype='float32'"
            )
        yield part
