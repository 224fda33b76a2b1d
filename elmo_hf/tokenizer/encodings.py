"""Encoding of batches of words: word ids, character ids, and the `tokenizers` library's `Encoding` objects.

A whole batch is encoded at once: each distinct word is looked up and spelled once, a sentence is a list of indices of
distinct words, and the rest is array indexing. `Encoding` objects, which provide `word_ids()`, `char_to_token()` and so
on, take several times as long and are rarely used, so they are created on first access.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import PostProcessor
from transformers.tokenization_utils_base import BatchEncoding

from .character_dictionary import DictionarySpelling
from .characters import ByteSpelling

Spelling = ByteSpelling | DictionarySpelling

# Numbers of a lexicon that stand for no word of the text, and the first that does.
PADDING, BEGIN_OF_SENTENCE, END_OF_SENTENCE, FIRST_WORD = range(4)

NO_TOKEN, NO_TOKEN_ID = "\0", -1
"""Placeholder of a boundary that a tokenizer does not have: no word contains NUL, and no word has this id."""


class ElmoEncoding(BatchEncoding):
    """A `BatchEncoding` with arrays that supports `==`: equal names and values are equal encodings.

    Unlike other tokenizers' encodings, it cannot be serialized to JSON: `character_ids` are arrays, because lists would
    take several times as long as everything else. Convert them with `encoding["character_ids"].tolist()`.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping) or self.keys() != other.keys():
            return False
        return all(_equal(value, other[name]) for name, value in self.items())

    __hash__ = None  # type: ignore[assignment]  # mutable


def _equal(one: Any, other: Any) -> bool:
    """True if two values of an encoding are equal: lists, arrays, lists of arrays, or tensors."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if hasattr(one, "shape") or hasattr(other, "shape"):
        return type(one) is type(other) and one.shape == other.shape and bool((one == other).all())
    return bool(one == other)


class Sentence(NamedTuple):
    """One sequence of words.

    Attributes:
        words: the words.
        find_spans: returns their (start, end) offsets in the text; `None` if the input was split into words.
    """

    words: Sequence[str]
    find_spans: Callable[[], list[tuple[int, int]]] | None


class SpecialTokens(NamedTuple):
    """Special tokens and their ids, as needed by a lexicon."""

    pad: str
    pad_id: int
    begin: str
    begin_id: int
    end: str
    end_id: int
    unknown_id: int
    mask: str | None = None


class Lexicon:
    """Numbered distinct words of a batch, with their word ids and character ids.

    Numbers 0, 1 and 2 are the padding word and the two sentence boundaries.

    Args:
        sentences: the words of the batch.
        special_tokens: the special tokens and their ids.
        find: returns the id of a word, `None` for an unknown one.
        special_boundary_words: spell boundary tokens that occur in the text as boundaries.
        spelling: converts words to character ids.

    Raises:
        TypeError: a word that is not a `str`.
    """

    def __init__(
        self,
        sentences: Iterable[Sequence[str]],
        special_tokens: SpecialTokens,
        find: Callable[[str], int | None],
        special_boundary_words: bool,
        spelling: Spelling,
    ) -> None:
        self._special_tokens = special_tokens
        self._special_boundary_words = special_boundary_words
        self._spelling = spelling
        self._numbers: dict[str, int] = {}
        # Words with the same lookup form as a boundary token.
        self._numbers_of_form: dict[str, list[int]] = {special_tokens.begin: [], special_tokens.end: []}
        self._ids = [special_tokens.pad_id, special_tokens.begin_id, special_tokens.end_id]
        try:
            words = dict.fromkeys(chain.from_iterable(sentences))
        except TypeError as error:  # unhashable, so not a str
            raise TypeError(f"expected words of type str ({error}); a batch is a list of lists of words") from error
        for word in words:
            if not isinstance(word, str):
                raise TypeError(f"expected words of type str, got {word!r} of type {type(word).__name__}")
            form = spelling.lookup_form(word)
            try:
                found = find(form)
            except UnicodeEncodeError:
                found = find(whole) if (whole := without_surrogates(form)) not in special_tokens else None
            self._append(word, special_tokens.unknown_id if found is None else found)

    def _append(self, word: str, word_id: int) -> None:
        form = self._spelling.lookup_form(word)
        if form in self._numbers_of_form:
            self._numbers_of_form[form].append(len(self._ids))
        self._numbers[word] = len(self._ids)
        self._ids.append(word_id)

    def numbers(self, words: Sequence[str]) -> list[int]:
        """Numbers of words of the batch."""
        return list(map(self._numbers.__getitem__, words))

    def number_of_special_token(self, token_id: int, token: str) -> int:
        """Number of a token that a template inserts: that of a boundary, or else of a word."""
        if token_id == self._special_tokens.begin_id:
            return BEGIN_OF_SENTENCE
        if token_id == self._special_tokens.end_id:
            return END_OF_SENTENCE
        if token not in self._numbers:
            self._append(token, token_id)
        return self._numbers[token]

    def word_ids(self) -> NDArray[np.int64]:
        """Word ids by number, int64 of shape (numbers,)."""
        return np.array(self._ids, dtype=np.int64)

    def character_ids(self) -> NDArray[np.signedinteger]:
        """Character ids by number, (numbers, max_characters_per_word) in the spelling's dtype; zeros for padding."""
        spelling = self._spelling
        rows = np.zeros((len(self._ids), spelling.max_characters_per_word), dtype=spelling.dtype)
        boundaries = spelling.boundary_rows()
        rows[BEGIN_OF_SENTENCE:FIRST_WORD] = boundaries
        rows[FIRST_WORD:] = spelling.rows(list(self._numbers))
        if self._special_boundary_words:
            for word, row in zip((self._special_tokens.begin, self._special_tokens.end), boundaries):
                rows[self._numbers_of_form[word]] = row
        return rows

    def spelled(self, spell: Callable[[str], list[int]]) -> list[list[int]]:
        """Apply `spell` to the word of every number; boundaries are empty words, padding is an empty list."""
        return [[], spell(""), spell(""), *map(spell, self._numbers)]

    def encoding(self, sentence: Sentence) -> Encoding:
        """The `Encoding` of a sentence, as `Tokenizer.encode` would return it before truncation and post-processing.

        Its tokens are the original words, also unknown ones.
        """
        words, find_spans = sentence
        count = len(words)
        state = {
            "ids": [self._ids[number] for number in self.numbers(words)],
            "type_ids": [0] * count,
            "tokens": list(map(without_surrogates, words)),
            "words": list(range(count)),
            "offsets": find_spans() if find_spans else [(0, len(word)) for word in words],
            "special_tokens_mask": [0] * count,
            "attention_mask": [1] * count,
            "overflowing": [],
            "sequence_ranges": {},
        }
        encoding = Encoding()
        # The library has no constructor; unpickling is the only way.
        encoding.__setstate__(json.dumps(state).encode())
        return encoding


class Template:
    """Special tokens around the sentences of a sample, as a post-processor of the `tokenizers` library adds them.

    Args:
        post_processor: the post-processor. It is copied: later changes to the tokenizer's have no effect.
        add_special_tokens: whether to apply it.
    """

    def __init__(self, post_processor: PostProcessor | None, add_special_tokens: bool) -> None:
        self._processor = Tokenizer(WordLevel())  # only post-processes, so its vocabulary is empty
        if post_processor is not None:
            self._processor.post_processor = post_processor
        self._add_special_tokens = add_special_tokens
        self._layouts: dict[int, list[int | tuple[int]]] = {}

    def apply(self, parts: Sequence[Encoding]) -> Encoding:
        """Join the encodings of a sample's one or two sentences and add special tokens."""
        first, second = (*parts, None)[:2]
        return self._processor.post_process(first, second, self._add_special_tokens)  # type: ignore[arg-type]

    def count_added(self, sentences: int) -> int:
        """Number of special tokens added to a sample of one or two sentences."""
        return self._processor.num_special_tokens_to_add(sentences == 2) if self._add_special_tokens else 0

    def arrange(self, values: Sequence[list[int]], lexicon: Lexicon, fill: int | None = None) -> list[int]:
        """Join the values of a sample's sentences and insert those of special tokens; for samples without truncation.

        Args:
            values: for each sentence, one integer per word, for instance its number.
            lexicon: gives the numbers of special tokens.
            fill: value at special tokens; by default their numbers.
        """
        arranged: list[int] = []
        for piece in self._layout(len(values), lexicon):
            arranged += values[piece] if isinstance(piece, int) else piece if fill is None else [fill]
        return arranged

    def _layout(self, count: int, lexicon: Lexicon) -> list[int | tuple[int]]:
        """Layout of a sample of `count` sentences: each item is the index of a sentence, or (number,) of a token."""
        if count not in self._layouts:
            # Found by post-processing sentences of one word each.
            probe = Encoding()
            probe.__setstate__(json.dumps({**json.loads(probe.__getstate__()), **_ONE_WORD}).encode())
            sample = self.apply([probe] * count)
            self._layouts[count] = [
                (lexicon.number_of_special_token(token_id, token),) if word is None else sentence or 0
                for token_id, token, word, sentence in _tokens(sample)
            ]
        return self._layouts[count]


_ONE_WORD = {
    "ids": [0],
    "type_ids": [0],
    "tokens": [""],
    "words": [0],
    "offsets": [(0, 0)],
    "special_tokens_mask": [0],
    "attention_mask": [1],
}


def _tokens(encoding: Encoding) -> Iterator[tuple[int, str, int | None, int | None]]:
    """Id, token, word and sentence of each token; `None` for what the template inserts."""
    return zip(encoding.ids, encoding.tokens, encoding.word_ids, encoding.sequence_ids)


def values_of_encoding(
    encoding: Encoding, values: Sequence[list[int]], lexicon: Lexicon, fill: int | None = None
) -> list[int]:
    """Values of the tokens of an encoding, which may be truncated or overflowing; arguments as `Template.arrange`."""

    def of_special(token_id: int, token: str) -> int:
        return lexicon.number_of_special_token(token_id, token) if fill is None else fill

    return [
        of_special(token_id, token) if word is None else values[sentence or 0][word]
        for token_id, token, word, sentence in _tokens(encoding)
    ]


class LazyEncodings(Sequence[Encoding]):
    """Sequence of encodings that are created on first access. Pickled and copied as a list."""

    def __init__(self, items: Iterable[Encoding | Callable[[], Encoding]]) -> None:
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Encoding: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoding]: ...
    def __getitem__(self, index: int | slice) -> Encoding | list[Encoding]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        item = self._items[index]
        if not isinstance(item, Encoding):
            item = self._items[index] = item()
        return item

    def __iter__(self) -> Iterator[Encoding]:
        return map(self.__getitem__, range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def truncate(parts: Sequence[Encoding], room: int, max_length: int, stride: int, strategy: str, side: str) -> None:
    """Truncate one or two encodings in place to `room` tokens in total, as the `tokenizers` library does.

    The rest goes to `overflowing`, in chunks that overlap by `stride` tokens. Unlike the library's truncation, it does
    not set a state of the tokenizer, and its errors name the arguments.

    Args:
        parts: the sentences of one sample.
        room: number of tokens to keep, without special tokens.
        max_length: the same with special tokens, for messages.
        stride: overlap of consecutive chunks in tokens.
        strategy: "longest_first", "only_first" or "only_second".
        side: "right" or "left", the side that is truncated.

    Raises:
        ValueError: the sentence to truncate is too short, or `stride` is too large.
    """
    lengths = [len(part) for part in parts]
    if room < 0:
        raise ValueError(
            f"max_length is {max_length}, less than the {max_length - room} special tokens; pass a larger max_length "
            "or add_special_tokens=False"
        )
    excess = sum(lengths) - room
    if excess <= 0:
        return
    if len(parts) == 2 and strategy == "longest_first":
        # The longer one is truncated first, down to the length of the other; then both equally.
        shorter = min(*lengths, room // 2)
        targets = [shorter, room - shorter] if lengths[0] <= lengths[1] else [room - shorter, shorter]
    else:
        cut = 1 if strategy == "only_second" else 0
        if cut >= len(parts):
            raise ValueError("truncation='only_second' needs a second sequence; pass text_pair or truncation=True")
        if len(parts) == 2 and lengths[cut] <= excess:
            raise ValueError(
                f"max_length is {max_length}: {excess} words are too many, but the sequence to cut has only "
                f"{lengths[cut]} words; pass a larger max_length or truncation='longest_first'"
            )
        targets = list(lengths)
        targets[cut] -= excess
    for part, length, target in zip(parts, lengths, targets):
        if target < length:
            if stride and stride >= target:
                raise ValueError(
                    f"stride is {stride}, but only {target} words of the sequence fit into max_length={max_length}; "
                    "expected a smaller stride or a larger max_length"
                )
            part.truncate(target, stride, side)


def without_surrogates(word: str) -> str:
    """Remove lone surrogates, which cannot be encoded in UTF-8; character ids skip them too."""
    return word if word.isascii() else word.encode("utf-8", "ignore").decode()
