"""The machinery of reading a document in chunks: its words in a file, and the states at the chunks' borders.

A document is read several times, from end to start and from start to end in turn. A sweep carries the states of its
own direction from chunk to chunk and finds those of the other direction where the sweep before left them. A
bidirectional layer is complete in a sweep when the layer below it was complete in the sweep before, so that every such
layer costs a sweep: a biLM, whose directions never see each other, needs two sweeps, and a task's biLSTM of n layers
over it n more.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from typing import NamedTuple, TypeVar, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from elmo_hf.model.state import ElmoState
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

Result = TypeVar("Result")


class States(NamedTuple):
    """The states of a model's recurrent parts behind a chunk.

    Attributes:
        bilm: of the biLM; `None` for a model without one.
        layers: of the task's own biLSTM; `None` for a model without one.
    """

    bilm: ElmoState | None
    layers: ElmoState | None


# Of words and states kept aside: what is more goes to the disk.
_MEMORY_BYTES = 2**24


def sweep_chunks(
    count: int,
    read: Callable[[int, States | None], tuple[Result, States]],
    layers: int,
    at_ends: States | None = None,
) -> Iterator[Result]:
    """What `read` gives of each chunk, in their order, with the states of whole-document reading at its borders.

    Args:
        count: of the chunks.
        read: a chunk's number and the state at its borders (of its forward directions before it, of its backward
            directions behind it; `None` or zero at the document's ends) -> result, and the state of every direction
            when it has read the chunk.
        layers: bidirectional layers upon each other, the biLM as one.
        at_ends: the states before the document in either reading order; `None` for zero.

    Memory: two states. Those of the borders are in a temporary file.
    """
    with Spool() as first, Spool() as second:
        opposite, found = first, second
        for sweep in range(layers if count > 1 else 0, -1, -1):
            direction = sweep % 2  # the last sweep is forward
            running = at_ends
            for place in range(count):
                is_last = place == count - 1
                # The sweep before came from the other end.
                other = _unpacked(opposite[count - 2 - place]) if len(opposite) and not is_last else at_ends
                earlier, later = (other, running) if direction else (running, other)
                result, running = read(count - 1 - place if direction else place, _joined(earlier, later))
                if sweep == 0:
                    yield result
                elif not is_last:
                    found.append(_packed(running, direction))
            opposite.clear()
            opposite, found = found, opposite


class Chunks:
    """A document's words, and their parts of speech if there are any, chunk by chunk; in a file if they are many.

    A document without words is one chunk without words.

    Args:
        tokenizer: of the model that reads them.
        words: any iterable of words; or a text, which the tokenizer splits.
        size: words of a chunk.
        pos_tags: of each word.
    """

    def __init__(
        self,
        tokenizer: ElmoTokenizer,
        words: str | Iterable[str],
        size: int,
        pos_tags: Iterable[str | None] | None = None,
    ) -> None:
        self._before, self._after = int(tokenizer.add_bos_token), int(tokenizer.add_eos_token)
        given = (word for word, _ in tokenizer.words(words)) if isinstance(words, str) else words
        self._spool = Spool()
        try:
            for chunk in _chunks(map(_check_word, enumerate(given)), pos_tags, size):
                self._spool.append(chunk)
            if not len(self):
                self._spool.append(json.dumps([[], None if pos_tags is None else []]).encode())
        except BaseException:
            self._spool.__exit__()
            raise

    def __enter__(self) -> "Chunks":
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.__exit__()

    def __len__(self) -> int:
        return len(self._spool)

    def __getitem__(self, number: int) -> tuple[list[str], list[str | None] | None]:
        """The words of a chunk, and their tags or `None`."""
        words, tags = json.loads(self._spool[number])
        return words, tags

    def first_word(self, number: int) -> int:
        """The place of a chunk's first word in its inputs."""
        return self._before if number == 0 else 0

    def cut(self, number: int, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a chunk without the boundaries that stand around it; those of the document's ends stay."""
        before, after = self._before if number else 0, self._after if number < len(self) - 1 else 0
        # Also of code points: a boundary is a word without any.
        return {name: values[:, before : values.shape[1] - after] for name, values in inputs.items()}


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


def _joined(earlier: States | None, later: States | None) -> States | None:
    """Forward directions of the one, backward directions of the other: parts are (layers, directions, rows, size)."""
    some = earlier or later
    if some is None:
        return None

    def join(forward: ElmoState | None, backward: ElmoState | None) -> ElmoState | None:
        known = forward or backward
        if known is None:
            return None
        nothing = [torch.zeros_like(part[:, :1]) for part in known]
        pairs = zip(forward or nothing, backward or nothing, strict=True)
        return ElmoState(*(torch.cat([one[:, :1], other.to(one)[:, -1:]], dim=1) for one, other in pairs))

    return States(*(join(*pair) for pair in zip(earlier or (None, None), later or (None, None), strict=True)))


def _packed(state: States, direction: int) -> bytes:
    """One direction of a state; the owners and names of its parts are the tensors' names."""
    parts = {
        f"{owner}.{name}": part[:, direction : direction + 1].cpu().contiguous()
        for owner, of_owner in state._asdict().items()
        if of_owner is not None
        for name, part in of_owner._asdict().items()
    }
    return save(parts)


def _unpacked(data: bytes) -> States:
    """What `_packed` was given, with an axis of one direction."""
    parts = load(data)

    def of(owner: str) -> ElmoState | None:
        if f"{owner}.hidden" not in parts:
            return None
        return ElmoState(*(parts[f"{owner}.{name}"] for name in ElmoState._fields))

    return States(*map(of, States._fields))


class Spool:
    """Pieces of bytes by number, in memory as long as they are few."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - closed by `__exit__`
        self._ends = [0]

    def __enter__(self) -> "Spool":
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

    def clear(self) -> None:
        self._file.truncate(0)
        self._ends = [0]

    def append(self, piece: bytes) -> None:
        self._file.seek(self._ends[-1])
        self._file.write(piece)
        self._ends.append(self._ends[-1] + len(piece))


def _check_word(numbered: tuple[int, str]) -> str:
    number, word = numbered
    if not isinstance(word, str):
        raise TypeError(f"word {number} is {word!r} of type {type(word).__name__}: expected str")
    return word
