"""Documents of any length as one sequence, in memory that does not depend on the length: `embed_document`."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from typing import cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.model.state import ElmoState
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .embedding import Embedder, Layers, Vectors, open_embedder
from .loading import Name

# Of words and states kept aside: what is more goes to the disk.
_MEMORY_BYTES = 2**24


def embed_document(
    words: str | Iterable[str],
    model: ElmoPreTrainedModel | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    pos_tags: Iterable[str | None] | None = None,
    layers: Layers = "mix",
    boundaries: bool = False,
    chunk_words: int = 2048,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Vectors]:
    """Contextual vectors of a document as one sequence, chunk by chunk; those of `embed`, up to rounding.

    The document is read twice. From its end to its start, only the backward direction's state at the chunks' borders is
    kept; then, from start to end, each chunk is read from the forward state of the chunk before and the backward state
    of the chunk after it. `<S>` and `</S>` stand at the document's ends only.

    Memory: that of one chunk. Words and border states are kept in a temporary file, at most about 40 KB a chunk beside
    the words themselves in a model of the original size.

    Args:
        words: of the document, any iterable; or its text, which the tokenizer splits and which then is in memory.
        model, tokenizer, layers, boundaries, device, dtype: as of `embed`.
        pos_tags: for a model that reads them, the part of speech of each word, beside words that are no text; `None`
            for a word without one. Other models ignore them.
        chunk_words: words read at a time.

    Yields:
        The vectors of consecutive words, in their order: (chunk, 2 * projection_size), or (layers, chunk,
        2 * projection_size) for `"all"`. A document without words gives one array of none.

    Raises:
        TypeError: a word that is not a text, or a tag that is neither text nor `None`.
        ValueError: an impossible option; parts of speech that do not fit the words or the model; a Transformer, or a
            mix that is normalised by the statistics of all words: both need the whole document at once.
    """
    if chunk_words < 1:
        raise ValueError(f"chunk_words={chunk_words}: expected at least 1")
    if not isinstance(words, str | Iterable):
        raise TypeError(f"words is {words!r}: expected a text, or an iterable of words")
    embedder = open_embedder(model, tokenizer, layers, boundaries, chunk_words, 1, device, dtype)
    reason = why_not_by_chunks(embedder)
    if reason is not None:
        raise ValueError(reason)
    if pos_tags is None:
        embedder.refuse_without_pos_tags("pos_tags, the tags of the document's words")
    elif isinstance(words, str):
        raise ValueError(f"words is the text {words!r:.60}: expected a list, or another iterable, beside pos_tags")
    elif isinstance(pos_tags, str) or not isinstance(pos_tags, Iterable):
        raise TypeError(f"pos_tags is {pos_tags!r:.60}: expected a list, or another iterable, of tags")
    return read_by_chunks(embedder, words, chunk_words, pos_tags)


def why_not_by_chunks(embedder: Embedder) -> str | None:
    """Why this model cannot read a document by chunks, and what to do; `None` if it can."""
    if embedder.model.config.encoder_type != "lstm":
        return (
            f"encoder_type={embedder.model.config.encoder_type!r}: every word of a Transformer attends to all others, "
            "so a document cannot be read by chunks. Expected a biLSTM; or split the document into sentences"
        )
    if embedder.is_normalised:
        return (
            f"scalar_mix_layer_norm={embedder.model.config.scalar_mix_layer_norm!r}: the mix is normalised by the "
            "statistics of all words, so a document cannot be read by chunks. Choose layers='all', 'top' or 'average'"
        )
    return None


def read_by_chunks(
    embedder: Embedder, words: str | Iterable[str], chunk_words: int, pos_tags: Iterable[str | None] | None = None
) -> Iterator[Vectors]:
    """As `embed_document`, with what is loaded and checked already."""
    given = (word for word, _ in embedder.tokenizer.words(words)) if isinstance(words, str) else words
    with _Spool() as chunks, _Spool() as states:
        for chunk in _chunks(map(_check_word, enumerate(given)), pos_tags, chunk_words):
            chunks.append(chunk)
        if len(chunks) < 2:
            some, tags = json.loads(chunks[0]) if len(chunks) else ([], None if pos_tags is None else [])
            yield from embedder.run([some if tags is None else TaggedSentence(some, tags)])
            return
        reader = _ChunkReader(embedder, len(chunks))
        # From the end: of chunk i + 1, the state is what chunk i needs of its right-hand side.
        later: ElmoState | None = None
        for number in range(len(chunks) - 1, 0, -1):
            some, tags = json.loads(chunks[number])
            later = reader.read(number, some, tags, None, later)[1]
            states.append(_packed(later))
        earlier: ElmoState | None = None
        for number in range(len(chunks)):
            # Stored from the last one on.
            place = len(chunks) - 2 - number
            later = _unpacked(states[place]) if place >= 0 else None
            some, tags = json.loads(chunks[number])
            array, earlier = reader.read(number, some, tags, earlier, later)
            yield array


def _chunks(words: Iterator[str], pos_tags: Iterable[str | None] | None, size: int) -> Iterator[bytes]:
    """JSON: the words of each chunk, and their tags or null."""
    if pos_tags is None:
        while chunk := list(islice(words, size)):
            yield json.dumps([chunk, None]).encode()
        return
    pairs = _with_tags(words, pos_tags)
    while some := list(islice(pairs, size)):
        yield json.dumps([[word for word, _ in some], [tag for _, tag in some]]).encode()


def _with_tags(words: Iterator[str], pos_tags: Iterable[str | None]) -> Iterator[tuple[str, str | None]]:
    missing = object()
    for number, (word, tag) in enumerate(zip_longest(words, pos_tags, fillvalue=missing)):
        if word is missing or tag is missing:
            raise ValueError(f"pos_tags and words are not as many: only one of them has a number {number}, from 0")
        if not (tag is None or isinstance(tag, str)):
            raise TypeError(f"tag {number} is {tag!r} of type {type(tag).__name__}: expected str or None")
        yield cast("str", word), tag


class _ChunkReader:
    """Reads single chunks of a document."""

    def __init__(self, embedder: Embedder, count: int) -> None:
        self._embedder, self._count = embedder, count

    def read(
        self,
        number: int,
        words: list[str],
        tags: list[str | None] | None,
        earlier: ElmoState | None,
        later: ElmoState | None,
    ) -> tuple[Vectors, ElmoState]:
        """The vectors of a chunk's words, and the state of both directions behind it, each in its own reading order.

        Args:
            number, words, tags: of the chunk.
            earlier: state whose forward direction has read all chunks before; `None` for zeros, as `later`.
            later: state whose backward direction has read all chunks after it.
        """
        embedder = self._embedder
        inputs = embedder.encode([words], None if tags is None else [tags])
        # Boundaries were put around each chunk; only the document's are read.
        is_first, is_last = number == 0, number == self._count - 1
        start = 0 if is_first else embedder.before
        end = embedder.length(words) - (0 if is_last else embedder.after)
        inputs = {name: values[:, start:end] for name, values in inputs.items()}
        outputs = embedder.outputs(inputs, initial_state=_joined(earlier, later), return_state=True)
        assert outputs.state is not None
        array = embedder.arrays(outputs)[0]
        if not embedder.boundaries:
            first = embedder.before if is_first else 0
            array = array[..., first : first + len(words), :]
        return array, outputs.state


def _joined(earlier: ElmoState | None, later: ElmoState | None) -> ElmoState | None:
    """Forward state of one, backward state of the other: parts are (layers, directions, rows, size)."""
    some = earlier or later
    if some is None:
        return None
    zeros = ElmoState(*(torch.zeros_like(part) for part in some))
    pairs = zip(earlier or zeros, later or zeros, strict=True)
    return ElmoState(*(torch.cat([forward[:, :1], backward.to(forward)[:, 1:]], dim=1) for forward, backward in pairs))


def _packed(state: ElmoState) -> bytes:
    return save({name: part[:, 1:].cpu().contiguous() for name, part in state._asdict().items()})


def _unpacked(data: bytes) -> ElmoState:
    # The forward half is not looked at.
    return ElmoState(**{name: _doubled(part) for name, part in load(data).items()})


def _doubled(part: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(part), part], dim=1)


class _Spool:
    """Pieces of bytes by number, in memory as long as they are few."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - closed by `__exit__`
        self._ends = [0]

    def __enter__(self) -> "_Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start, end = self._ends[number : number + 2]
        self._file.seek(start)
        return self._file.read(end - start)

    def append(self, piece: bytes) -> None:
        self._file.seek(self._ends[-1])
        self._file.write(piece)
        self._ends.append(self._ends[-1] + len(piece))


def _check_word(numbered: tuple[int, str]) -> str:
    number, word = numbered
    if not isinstance(word, str):
        raise TypeError(f"word {number} is {word!r} of type {type(word).__name__}: expected str")
    return word
