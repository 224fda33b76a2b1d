"""Plan of the shards: the input is read once, before the model is loaded."""

import collections
import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elmo_hf.corpus.sentences import Corpus, Place
from elmo_hf.corpus.shards import Record
from elmo_hf.corpus.tagged_text import TaggedSentence


@dataclass(frozen=True)
class Shard:
    """Consecutive sentences of the input.

    Attributes:
        number: number of the shard, from 0.
        first: number of its first sentence.
        sentences: number of its sentences.
        words: number of their words, by whitespace; for sizes and progress.
        place: position of the first sentence for the corpus's reader.
        digest: digest of the sentences and their identifiers.
    """

    number: int
    first: int
    sentences: int
    words: int
    place: Place
    digest: str


@dataclass(frozen=True)
class Plan:
    """The shards of a corpus, in the order of its sentences."""

    shards: tuple[Shard, ...]

    @property
    def sentences(self) -> int:
        return sum(shard.sentences for shard in self.shards)

    @property
    def words(self) -> int:
        return sum(shard.words for shard in self.shards)

    @property
    def digest(self) -> str:
        """Digest of all sentences, in their shards."""
        return hashlib.sha256(" ".join(shard.digest for shard in self.shards).encode()).hexdigest()

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(shard) for shard in self.shards]

    @classmethod
    def from_json(cls, shards: list[dict[str, Any]]) -> "Plan":
        return cls(tuple(Shard(**shard) for shard in shards))


def words_by_whitespace(record: Record) -> int:
    """Number of words of a sentence, estimated by whitespace for a text."""
    sentence = record.sentence
    if isinstance(sentence, TaggedSentence):
        return len(sentence.words)
    return len(sentence) if isinstance(sentence, list) else len(sentence.split())


def _digested(record: Record) -> bytes:
    """Contents of a record as bytes, escaped so that their boundaries are unambiguous."""
    sentence: Any = record.sentence
    if isinstance(sentence, TaggedSentence):
        sentence = [sentence.words, sentence.tags]
    return json.dumps([record.identifier, sentence]).encode()


def plan_shards(
    given: Corpus, shard_words: int, checks: Sequence[Callable[[Record], None]] = (), multiple: int = 1
) -> Plan:
    """Cut the input into shards of about `shard_words` words each; the result depends only on input and size.

    This reads the whole input, so invalid lines are found before any work is done.

    Args:
        given: the input.
        shard_words: words of a shard.
        checks: functions called with every record; they raise a `ValueError` for an invalid one.
        multiple: the number of sentences of every shard but the last is a multiple of this.

    Raises:
        ValueError: a line or record cannot be read; the message names it.
    """
    shards: list[Shard] = []
    first = sentences = words = size = 0
    start: Place = []
    digest = hashlib.sha256()
    for place, record in given.records():
        if not sentences:
            start = place
        for check in checks:
            check(record)
        digest.update(_digested(record))
        count = words_by_whitespace(record)
        sentences, words, size = sentences + 1, words + count, size + max(1, count)
        if size >= shard_words and sentences % multiple == 0:
            shards.append(Shard(len(shards), first, sentences, words, start, digest.hexdigest()))
            first, sentences, words, size = first + sentences, 0, 0, 0
            digest = hashlib.sha256()
    if sentences:
        shards.append(Shard(len(shards), first, sentences, words, start, digest.hexdigest()))
    return Plan(tuple(shards))


class ShardReader:
    """Reader of the sentences of shards, in ascending order.

    The input stays open between shards: a compressed file can be read only from its beginning.
    """

    def __init__(self, given: Corpus) -> None:
        self._given = given
        self._stream: Generator[tuple[Place, Record], None, None] | None = None
        self._next = 0  # number of the stream's next sentence
        self._file = -1  # file of the last sentence

    def read(self, shard: Shard) -> list[Record]:
        """The sentences of a shard.

        Raises:
            ValueError: the sentences differ from those of the plan.
        """
        stream = self._at(shard)
        records: list[Record] = []
        digest = hashlib.sha256()
        for place, record in itertools.islice(stream, shard.sentences):
            digest.update(_digested(record))
            records.append(record)
            self._file = place[0]
        self._next = shard.first + shard.sentences
        if digest.hexdigest() != shard.digest:
            where = records[0].where if records else f"sentence {shard.first}"
            raise ValueError(
                f"the input changes while it is read (from {where} on). Leave its files alone until it ends"
            )
        return records

    def _at(self, shard: Shard) -> Generator[tuple[Place, Record], None, None]:
        """Stream of all sentences from a shard on."""
        file, ahead = shard.place[0], shard.first - self._next
        goes_on = file == self._file and self._given.shards[file].is_sequential
        if self._stream is None or ahead < 0 or (ahead > 0 and not goes_on):
            self.close()
            self._stream = self._given.records(shard.place)
        else:
            collections.deque(itertools.islice(self._stream, ahead), maxlen=0)
        return self._stream

    def close(self) -> None:
        """Close the files."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
