"""Reading a document in chunks: its words are kept in a file, and so are the states at the borders between chunks.

A document is read several times, in sweeps of alternating direction. Each sweep carries the states of its own
direction from chunk to chunk, and takes those of the other direction from the previous sweep. A bidirectional layer is
complete in the sweep after the one in which the layer below it was complete, so every such layer costs one sweep. A
biLM, whose directions are independent, needs two sweeps; a task's biLSTM of n layers on top needs n more.
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
    """States of a model's recurrent parts after a chunk.

    Attributes:
        bilm: state of the biLM; `None` for a model without one.
        layers: state of the task's own biLSTM; `None` for a model without one.
    """

    bilm: ElmoState | None
    layers: ElmoState | None


# Words and states are kept in memory up to this size, then in a file.
_MEMORY_BYTES = 2**24


def sweep_chunks(
    count: int,
    read: Callable[[int, States | None], tuple[Result, States]],
    layers: int,
    at_ends: States | None = None,
) -> Iterator[Result]:
    """Read chunks with the same states at their borders as in a pass over the whole document.

    Args:
        count: number of chunks.
        read: takes a chunk's number and the states at its borders (forward directions before it, backward directions
            after it; `None` or zero at the document's ends), and returns the chunk's result and the final state of
            every direction.
        layers: number of stacked bidirectional layers; the biLM counts as one.
        at_ends: the initial states of both directions; `None` for zero.

    Yields:
        The result of each chunk, in order. Only two states are held in memory; border states are in a temporary file.
    """
    with Spool() as first, Spool() as second:
        opposite, found = first, second
        for sweep in range(layers if count > 1 else 0, -1, -1):
            direction = sweep % 2  # the last sweep is forward
            running = at_ends
            for place in range(count):
                is_last = place == count - 1
                # The previous sweep ran in the opposite direction.
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
    """A document's words and optional POS tags in chunks; kept in a file if there are many.

    A document without words is one empty chunk.

    Args:
        tokenizer: tokenizer of the model that reads the document.
        words: any iterable of words; or a text, which the tokenizer splits.
        size: words per chunk.
        pos_tags: POS tag of each word.
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
        """Words of a chunk, and their tags or `None`."""
        words, tags = json.loads(self._spool[number])
        return words, tags

    def first_word(self, number: int) -> int:
        """Position of a chunk's first word in its inputs."""
        return self._before if number == 0 else 0

    def cut(self, number: int, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inputs of a chunk without sentence boundaries, except those at the document's ends."""
        before, after = self._before if number else 0, self._after if number < len(self) - 1 else 0
        # Valid for code points too: a boundary is a word without any.
        return {name: values[:, before : values.shape[1] - after] for name, values in inputs.items()}


def _chunks(words: Iterator[str], pos_tags: Iterable[str | None] | None, size: int) -> Iterator[bytes]:
    """Encode each chunk as JSON: its words, and their tags or null."""
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
            raise ValueError(
                f"pos_tags and words differ in length: only one of them has an item {number}, counted from 0"
            )
        if not (tag is None or isinstance(tag, str)):
            raise TypeError(f"tag {number} is {tag!r} of type {type(tag).__name__}: expected str or None")
        yield cast("str", word), tag


def _joined(earlier: States | None, later: States | None) -> States | None:
    """Join forward directions of `earlier` and backward directions of `later`; parts are (layers, directions, rows,
    size)."""
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
    """Serialize one direction of a state; tensors are named by owner and part."""
    parts = {
        f"{owner}.{name}": part[:, direction : direction + 1].cpu().contiguous()
        for owner, of_owner in state._asdict().items()
        if of_owner is not None
        for name, part in of_owner._asdict().items()
    }
    return save(parts)


def _unpacked(data: bytes) -> States:
    """Restore the state that `_packed` serialized, with a direction axis of length 1."""
    parts = load(data)

    def of(owner: str) -> ElmoState | None:
        if f"{owner}.hidden" not in parts:
            return None
        return ElmoState(*(parts[f"{owner}.{name}"] for name in ElmoState._fields))

    return States(*map(of, States._fields))


class Spool:
    """A list of byte strings, in memory while it is small and then in a temporary file."""

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
