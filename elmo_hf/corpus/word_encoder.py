"""Fast conversion of text to words, and of words to ids and character rows, for training."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from elmo_hf.tokenizer.characters import ByteSpelling
from elmo_hf.tokenizer.encodings import Spelling, without_surrogates
from elmo_hf.tokenizer.pos_tags import NO_TAG, PosTags
from elmo_hf.tokenizer.pretokenization import CharacterReplacements, check_pre_tokenization, split_words

from .tagged_text import Sentence, TaggedSentence

if TYPE_CHECKING:
    from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

logger = logging.getLogger(__name__)

# Number of distinct words whose rows are cached: 65,536 cover 97 % of running English and take 6.5 MB at 50 characters
# each. A full table is cleared, so memory is bounded for any corpus.
CACHED_WORDS = 2**16


def word_splitter(
    pre_tokenization: str, character_replacements: Mapping[str, str] | None = None
) -> Callable[[Sentence], list[str]]:
    """A function that returns the words of a sentence; it splits texts, and leaves lists of words unchanged.

    Args:
        pre_tokenization: `"whitespace"` for tokenized text (`str.split`, as bilm-tf reads its corpora), `"ptb"` for raw
            text (`ElmoTokenizer`'s Penn-Treebank-like rules).
        character_replacements: replacements of single characters in texts, as in `ElmoTokenizer`.

    Raises:
        ValueError: an unknown rule.
    """
    check_pre_tokenization(pre_tokenization)
    return partial(_words_of, pre_tokenization, CharacterReplacements(character_replacements or {}))


def _words_of(pre_tokenization: str, replacements: CharacterReplacements, sentence: Sentence) -> list[str]:
    """Split a sentence; a module-level function, so that it can be pickled for other processes."""
    if isinstance(sentence, str):
        return replacements.of_words(split_words(replacements.in_text(sentence), pre_tokenization))
    return list(sentence.words if isinstance(sentence, TaggedSentence) else sentence)


def line_splitter(tokenizer: "ElmoTokenizer", pre_tokenization: str | None = None) -> Callable[[Sentence], list[str]]:
    """A function that splits a line of text into words for a model.

    Args:
        tokenizer: the model's tokenizer.
        pre_tokenization: rule that splits lines; by default that of the model's training corpus. With `"ptb"`, lines
            are raw text and read by the tokenizer's own rule.

    Raises:
        ValueError: an unknown rule.
    """
    rule = pre_tokenization or tokenizer.corpus_pre_tokenization
    return word_splitter(rule, tokenizer.character_replacements if rule == "ptb" else None)


class RuleNotice:
    """A one-time notice of the rule used for lines, if the tokenizer's rule for raw text finds different words.

    Args:
        tokenizer: the model's tokenizer.
        used: the rule used for lines.

    Attributes:
        used: as above.
    """

    def __init__(self, tokenizer: "ElmoTokenizer", used: str) -> None:
        corpus, raw = tokenizer.corpus_pre_tokenization, tokenizer.pre_tokenization
        self.used, self._other = used, corpus if used == raw else raw
        reasons = {raw: "as the tokenizer reads raw text", corpus: "as the lines of the model's corpus were"}
        self._reason = reasons.get(used, "as asked for")
        self._is_told = self.used == self._other
        self._splitters = line_splitter(tokenizer, used), line_splitter(tokenizer, self._other)

    def look(self, sentence: Sentence) -> None:
        """Compare the words of both rules in one sentence."""
        if self._is_told or not isinstance(sentence, str):
            return
        one, other = (split(sentence) for split in self._splitters)
        if one != other:
            self._is_told = True
            logger.info(
                f"lines are split by the rule {self.used!r}, {self._reason}; {self._other!r} finds other words, first "
                f"in {sentence!r:.60}: pre_tokenization={self._other!r} (--pre_tokenization {self._other}) reads them"
            )

    def over(self, sentences: Iterable[Sentence]) -> Iterator[Sentence]:
        """Yield the sentences unchanged while comparing them."""
        for sentence in sentences:
            self.look(sentence)
            yield sentence


class WordEncoder:
    """Encoder of running text into word ids and character rows, with a bounded cache of recent words.

    Ids are the tokenizer's: padding 0, then the vocabulary file's lines. A word outside the vocabulary keeps its own
    characters and gets the id of `<UNK>`. As in bilm-tf, `<S>` and `</S>` in a text *are* the boundaries, unless
    `special_boundary_words` is false. `<pad>` and `<mask>` in a text are unknown words, since no original predicts
    them.

    Args:
        vocabulary: mapping from word to id.
        bos_token, eos_token, unk_token: the boundaries and the unknown word, in `vocabulary`.
        excluded_tokens: words of `vocabulary` that do not stand for words of a text: padding and mask.
        max_characters_per_word: length of a character row of bytes.
        spelling: mapping from words to rows of characters; by default rows of bytes.
        special_boundary_words: as in the tokenizer.
        pos_tag_set: as in the tokenizer.
        cached_words: size of the cache.

    Attributes:
        pos_tags: the POS tags, `None` without a set of them.
        bos_token, eos_token: the boundaries in lists of words. If boundaries spelled in a text are ordinary words,
            these are strings that no text can contain.

    Raises:
        ValueError: a special token is missing from the vocabulary.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        *,
        bos_token: str = "<S>",
        eos_token: str = "</S>",
        unk_token: str = "<UNK>",
        excluded_tokens: tuple[str, ...] = ("<pad>", "<mask>"),
        max_characters_per_word: int = 50,
        spelling: Spelling | None = None,
        special_boundary_words: bool = True,
        pos_tag_set: Sequence[str] | None = None,
        cached_words: int = CACHED_WORDS,
    ) -> None:
        missing = [token for token in (bos_token, eos_token, unk_token) if token not in vocabulary]
        if missing:
            raise ValueError(
                f"the vocabulary of {len(vocabulary)} words lacks {', '.join(missing)}: a language model needs "
                f"{bos_token}, {eos_token} and {unk_token}. `elmo-hf build-vocab` writes them as the first three lines"
            )
        # Words contain no line breaks.
        mark = "" if special_boundary_words else "\n"
        self.bos_token, self.eos_token = bos_token + mark, eos_token + mark
        self.pos_tags = None if pos_tag_set is None else PosTags(pos_tag_set)
        self._boundary_ids = vocabulary[bos_token], vocabulary[eos_token]
        self._spelling = ByteSpelling(max_characters_per_word) if spelling is None else spelling
        self.max_characters_per_word = self._spelling.max_characters_per_word
        # Longer words may be truncated to a boundary before they are looked up.
        self._boundary_forms = (bos_token, eos_token) if special_boundary_words else ()
        self._special_tokens = {bos_token, eos_token, *excluded_tokens}
        self._vocabulary = dict(vocabulary)
        for token in excluded_tokens:
            self._vocabulary.pop(token, None)
        self._unknown = self._vocabulary[unk_token]
        self._capacity = max(cached_words, 2)
        self._restart(self._capacity)

    @classmethod
    def from_tokenizer(cls, tokenizer: "ElmoTokenizer") -> "WordEncoder":
        """Create the encoder that gives the same ids and characters as a tokenizer.

        Raises:
            ValueError: the tokenizer has no `<S>`, `</S>` or `<UNK>`.
        """
        specials = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token")}
        absent = [name for name, token in specials.items() if token is None]
        if absent:
            raise ValueError(f"the tokenizer's {', '.join(absent)} is None: expected '<S>', '</S>' and '<UNK>'")
        return cls(
            tokenizer.get_vocab(),
            excluded_tokens=tuple(token for token in (tokenizer.pad_token, tokenizer.mask_token) if token is not None),
            spelling=tokenizer.spelling,
            special_boundary_words=tokenizer.special_boundary_words,
            pos_tag_set=tokenizer.pos_tag_set,
            **specials,
        )

    def slots(self, words: list[str]) -> NDArray[np.int64]:
        """Indices of `words` in `word_ids` and `character_ids`, (len(words),); valid until the next call."""
        if not words:
            return np.zeros(0, np.int64)
        slots = self._slot.find(words)
        if len(self._slot) > len(self.word_ids):
            # A single list with more distinct words than the table has room for needs a larger table.
            self._restart(max(self._capacity, len(set(words)) + 2))
            slots = self._slot.find(words)
        if self._slot.new:
            self._fill(self._slot.new)
            self._slot.new = []
        return slots

    def encode(self, words: list[str]) -> tuple[NDArray[np.int64], NDArray[np.signedinteger]]:
        """Word ids (len(words),) int64 and character rows (len(words), max_characters_per_word)."""
        slots = self.slots(words)
        return self.word_ids[slots], self.character_ids[slots]

    def pos_tag_ids(self, sentence: TaggedSentence) -> list[int]:
        """Ids of a sentence's POS tags, including those of the boundaries.

        Raises:
            ValueError: a tag outside the set, or no set.
        """
        if self.pos_tags is None:
            raise ValueError("the tokenizer has no POS tags: make it with pos_tag_set=[...]")
        try:
            return [NO_TAG, *self.pos_tags.ids_of(sentence.tags, sentence.words), NO_TAG]
        except ValueError as error:
            raise ValueError(f"{' '.join(sentence.words[:8])!r}: {error}") from None

    def _fill(self, new: list[str]) -> None:
        """Fill in the rows of newly added words."""
        last = slice(len(self._slot) - len(new), len(self._slot))
        forms = list(map(self._spelling.lookup_form, new))
        self.word_ids[last] = list(map(self._word_id, forms))
        self.character_ids[last] = self._spelling.rows(new)
        for place, form in enumerate(forms, last.start):
            if form in self._boundary_forms:
                self.character_ids[place] = self.character_ids[self._boundary_forms.index(form)]

    def _word_id(self, form: str) -> int:
        if not form.isascii() and (whole := without_surrogates(form)) != form:
            # Lone surrogates are not part of a word, but a special token with one is a different word.
            return self._unknown if whole in self._special_tokens else self._vocabulary.get(whole, self._unknown)
        return self._vocabulary.get(form, self._unknown)

    def _restart(self, capacity: int) -> None:
        self.word_ids = np.zeros(capacity, np.int64)
        self.character_ids = np.zeros((capacity, self.max_characters_per_word), self._spelling.dtype)
        self._slot = _Slots({self.bos_token: 0, self.eos_token: 1})
        self.word_ids[:2] = self._boundary_ids
        self.character_ids[:2] = self._spelling.boundary_rows()


class _Slots(dict[str, int]):
    """Mapping from word to slot. A missing word gets the next slot and is recorded in `new`."""

    def __init__(self, slots: dict[str, int]) -> None:
        super().__init__(slots)
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        slot = self[word] = len(self)
        self.new.append(word)
        return slot

    def find(self, words: list[str]) -> NDArray[np.int64]:
        """Slots of at least one word."""
        # One C call for all words; the repeated first word makes `itemgetter` return a tuple.
        return np.array(itemgetter(*words, words[0])(self)[:-1], np.int64)
