"""Sentences of words to ids, rows of characters, and the `tokenizers` library's `Encoding` objects.

Ids and characters are made for a whole batch at once: each distinct word is looked up and spelled out once, a sentence
is a list of numbers of such words, and the rest is indexing. The `Encoding` objects, which answer `word_ids()`,
`char_to_token()` and so on, cost several times as much and are mostly not asked for: they are made when they are.
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

# The first rows of a lexicon are no words of the text.
PADDING, BEGIN_OF_SENTENCE, END_OF_SENTENCE, FIRST_WORD = range(4)

NO_TOKEN, NO_TOKEN_ID = "\0", -1
"""In place of a boundary that a tokenizer does without: no word holds a NUL, and no word has the id."""


class ElmoEncoding(BatchEncoding):
    """A `BatchEncoding` that can be compared, though it holds arrays: equal names and values are equal encodings.

    It cannot be written as JSON, as those of other tokenizers can: `character_ids` are arrays, and lists of them take
    several times as long to make as all the rest. `encoding["character_ids"].tolist()` makes one.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping) or self.keys() != other.keys():
            return False
        return all(_equal(value, other[name]) for name, value in self.items())

    __hash__ = None  # type: ignore[assignment]  # as for every mapping that can change


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of an encoding are the same: lists, arrays, lists of arrays, tensors."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if hasattr(one, "shape") or hasattr(other, "shape"):
        return type(one) is type(other) and one.shape == other.shape and bool((one == other).all())
    return bool(one == other)


class Sentence(NamedTuple):
    """One sequence of words.

    Attributes:
        words: the words.
        find_spans: finds their (start, end) in the text they come from; None where the words were given.
    """

    words: Sequence[str]
    find_spans: Callable[[], list[tuple[int, int]]] | None


class SpecialTokens(NamedTuple):
    """What a lexicon must know about the special tokens."""

    pad: str
    pad_id: int
    begin: str
    begin_id: int
    end: str
    end_id: int
    unknown_id: int
    mask: str | None = None


class Lexicon:
    """The distinct words of a batch, numbered: word ids and rows of characters by number.

    Numbers 0, 1 and 2 are the padding word and the two sentence boundaries.

    Args:
        sentences: the words of the batch.
        special_tokens: texts and ids of the special tokens.
        find: the id of a word, None for an unknown one.
        special_boundary_words: give boundary tokens that stand in the text the characters of the boundary.
        spelling: makes words into rows of characters.

    Raises:
        TypeError: for a word that is no `str`.
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
        # Words that are looked up as a boundary.
        self._numbers_of_form: dict[str, list[int]] = {special_tokens.begin: [], special_tokens.end: []}
        self._ids = [special_tokens.pad_id, special_tokens.begin_id, special_tokens.end_id]
        try:
            words = dict.fromkeys(chain.from_iterable(sentences))
        except TypeError as error:  # something unhashable, hence no str
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
        """The number of each word."""
        return list(map(self._numbers.__getitem__, words))

    def number_of_special_token(self, token_id: int, token: str) -> int:
        """The number of a token put in by a template: a boundary, or else a word like any other."""
        if token_id == self._special_tokens.begin_id:
            return BEGIN_OF_SENTENCE
        if token_id == self._special_tokens.end_id:
            return END_OF_SENTENCE
        if token not in self._numbers:
            self._append(token, token_id)
        return self._numbers[token]

    def word_ids(self) -> NDArray[np.int64]:
        """The word id of every number, int64 of shape (numbers,)."""
        return np.array(self._ids, dtype=np.int64)

    def character_ids(self) -> NDArray[np.signedinteger]:
        """The characters of every number, (numbers, max_characters_per_word) of the spelling; zeros for padding."""
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
        """What `spell` makes of the word of every number; of an empty word at boundaries, nothing at padding."""
        return [[], spell(""), spell(""), *map(spell, self._numbers)]

    def encoding(self, sentence: Sentence) -> Encoding:
        """What `Tokenizer.encode` would return for a sentence before truncation and template.

        Its tokens are the words as they were typed, also where they are unknown.
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
        # The pickled form is the only way to make one from its parts.
        encoding.__setstate__(json.dumps(state).encode())
        return encoding


class Template:
    """What surrounds the sentences of a sample: the special tokens of a post-processor, or nothing.

    Args:
        post_processor: the library's template; kept as it is now, whatever the tokenizer's becomes later.
        add_special_tokens: whether to apply it.
    """

    def __init__(self, post_processor: PostProcessor | None, add_special_tokens: bool) -> None:
        self._processor = Tokenizer(WordLevel())  # only ever post-processes, hence needs no words
        if post_processor is not None:
            self._processor.post_processor = post_processor
        self._add_special_tokens = add_special_tokens
        self._layouts: dict[int, list[int | tuple[int]]] = {}

    def apply(self, parts: Sequence[Encoding]) -> Encoding:
        """One encoding of a sample's one or two sentences with the special tokens around them."""
        first, second = (*parts, None)[:2]
        return self._processor.post_process(first, second, self._add_special_tokens)  # type: ignore[arg-type]

    def count_added(self, sentences: int) -> int:
        """How many special tokens a sample of one or two sentences gets."""
        return self._processor.num_special_tokens_to_add(sentences == 2) if self._add_special_tokens else 0

    def arrange(self, values: Sequence[list[int]], lexicon: Lexicon, fill: int | None = None) -> list[int]:
        """What a sample that is not truncated becomes, from the values of its sentences' words.

        Args:
            values: of each sentence, the words' numbers, or other integers.
            fill: at special tokens; by default these have their numbers.
        """
        arranged: list[int] = []
        for piece in self._layout(len(values), lexicon):
            arranged += values[piece] if isinstance(piece, int) else piece if fill is None else [fill]
        return arranged

    def _layout(self, count: int, lexicon: Lexicon) -> list[int | tuple[int]]:
        """What a sample of `count` sentences becomes: each piece the index of a sentence, or (number,) of a token."""
        if count not in self._layouts:
            # Found by looking at what becomes of sentences of one word: (number,) of a special token, or a sentence.
            probe = Encoding()
            probe.__setstate__(json.dumps({**json.loads(probe.__getstate__()), **_ONE_WORD}).encode())
            sample = self.apply([probe] * count)
            self._layouts[count] = [
                (lexicon.number_of_special_token(token_id, token),) if word is None else sentence or 0
                for token_id, token, word, sentence in zip(
                    sample.ids, sample.tokens, sample.word_ids, sample.sequence_ids
                )
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


def values_of_encoding(
    encoding: Encoding, values: Sequence[list[int]], lexicon: Lexicon, fill: int | None = None
) -> list[int]:
    """As `Template.arrange`, of the tokens of any encoding, truncated or overflowing."""

    def of_special(token_id: int, token: str) -> int:
        return lexicon.number_of_special_token(token_id, token) if fill is None else fill

    return [
        of_special(token_id, token) if word is None else values[sentence or 0][word]
        for token_id, token, word, sentence in zip(
            encoding.ids, encoding.tokens, encoding.word_ids, encoding.sequence_ids
        )
    ]


class LazyEncodings(Sequence[Encoding]):
    """Encodings, each made when it is first asked for. Pickles and copies as the list it stands for."""

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
    """Cut one or two encodings in place to `room` tokens together, as the `tokenizers` library does.

    What is cut off goes to `overflowing`, in pieces that share `stride` tokens with their neighbour. The library's own
    truncation is a state of the tokenizer; this one is not, and its errors can be understood.

    Args:
        parts: the sentences of one sample.
        room: tokens to keep, special tokens not counted.
        max_length: the same with the special tokens; for messages.
        stride: tokens that neighbouring pieces share.
        strategy: "longest_first", "only_first" or "only_second".
        side: "right" or "left", where tokens are cut off.

    Raises:
        ValueError: where the sentence to cut is too short for what must go, or for the stride.
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
        # The longer one alone is cut while that is enough, down to the length of the other; then both.
        shorter = min(*lengths, room // 2)
        targets = [shorter, room - shorter] if lengths[0] <= lengths[1] else [room - shorter, shorter]
    else:
        cut = 1 if strategy == "only_second" else 0
        if cut >= len(parts):
            raise ValueError("truncation='only_second' needs a second sequence; pass text_pair or truncation=True")
        if len(parts) == 2 and lengths[cut] <= excess:
            raise ValueError(
                f"max_length is {max_length}: {excess} words are too many, but the sequence to cut has only "
                f"{lengths[cut]}; pass a larger max_length or truncation='longest_first'"
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
    """The word without lone surrogates, which have no UTF-8 form, just as its characters leave them out."""
    return word if word.isascii() else word.encode("utf-8", "ignore").decode()
