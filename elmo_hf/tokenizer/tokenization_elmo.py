"""ElmoTokenizer: word ids in the language model's vocabulary, offsets, and character ids.

A model reads a word by its characters, so `character_ids` (words, characters) are returned in addition to the usual
`input_ids` and `attention_mask`, which remain two-dimensional and work with collators, pipelines and `datasets`.

Words are split and looked up here instead of by the `tokenizers` library, which would split given words again and match
special tokens inside them. The library still holds the vocabulary, adds the sentence boundaries, and provides the
`Encoding` objects with `word_ids()`, `char_to_token()` and so on.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import WordPiece
from transformers.tokenization_utils_base import BatchEncoding, TruncationStrategy
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils.generic import PaddingStrategy, TensorType

from .character_dictionary import CharacterDictionary, DictionarySpelling
from .characters import NUM_CHARACTERS, ByteSpelling, check_max_characters_per_word, check_tokens_to_add
from .code_points import CodePoints
from .code_points import padded as padded_code_points
from .complete_files import appearing
from .encodings import (
    NO_TOKEN,
    NO_TOKEN_ID,
    PADDING,
    ElmoEncoding,
    LazyEncodings,
    Lexicon,
    Sentence,
    SpecialTokens,
    Spelling,
    Template,
    truncate,
    values_of_encoding,
)
from .installed_package import package_part
from .pos_tags import NO_TAG, PosTags
from .pretokenization import (
    CharacterReplacements,
    added_token_expression,
    backend_pre_tokenizer,
    check_pre_tokenization,
    split_words,
    word_spans,
)
from .vocabulary import (
    check_numbering,
    check_words,
    is_vocabulary_word,
    number_words,
    read_vocabulary,
    write_vocabulary,
)

CHARACTER_VOCABULARY = "character_vocabulary.json"
VOCAB_FILES_NAMES = {
    "vocab_file": "vocab.txt",
    "tokenizer_file": "tokenizer.json",
    "character_vocabulary_file": CHARACTER_VOCABULARY,
}

# The backend is a WordPiece model without word pieces: no word contains NUL, so no entry continues another one. Unlike
# with a WordLevel model, the token-classification pipeline treats its tokens as words.
_CONTINUATION = "\0"


# First words of a vocabulary that is not read from a file, in the order of the originals' files.
FIRST_TOKENS = ("bos_token", "eos_token", "unk_token")


class ElmoTokenizer(TokenizersBackend):
    """Tokenizer of ELMo models.

    Each call returns `input_ids` (word ids), `attention_mask` and `character_ids`. The latter are int16 arrays of shape
    (words, max_characters_per_word), one per example; with `return_tensors`, one int64 tensor of shape (batch, words,
    max_characters_per_word). Character ids are those of bilm-tf and AllenNLP (see `characters`), or with a
    `character_vocabulary` those of ELMoForManyLangs (see `character_dictionary`); zeros at padding words. A sentence is
    encoded as `<S> A </S>`, a pair as `<S> A </S> <S> B </S>`.

    Words given with `is_split_into_words=True` are never split: each is exactly one token, also the empty word, so that
    labels remain aligned. `tokens()` returns the original words; the id of a word outside the vocabulary is
    `unk_token_id`.

    With a `pos_tag_set`, given words can have POS tags, for models with `num_pos_tags`: `tokenizer(words,
    pos_tags=tags, is_split_into_words=True)`, and `pos_tags_pair` for `text_pair`, each shaped as the words. Then
    `pos_tag_ids` are returned too, shaped as `input_ids`: 1 for the first tag of the set; 0 at boundaries, padding, and
    words whose tag is `None`.

    With a `code_point_set`, `code_point_ids` are returned too, for task models with `task_character_size` (see
    `code_points`): one row per example, as lists of different lengths, or padded to the longest of the batch.

    Args:
        vocab_file: vocabulary of the language model, one word per line (bilm-tf's format; may be gzipped). By default
            the vocabulary has the special tokens only, which is sufficient to embed words.
        vocab: the vocabulary as a list of words, or as a complete mapping from words to ids.
        pre_tokenization: rule that splits raw text into words: `"ptb"` (Penn-Treebank-like: "do n't", separate
            punctuation) or `"whitespace"`.
        corpus_pre_tokenization: rule that split the language model's training corpus into words. Only the commands that
            read text files use it.
        character_replacements: replacements of single characters in raw text before it is split into words, such as
            `{"\u201c": '"'}`; given words are not changed. `pretrain` sets it for typographic quotes, apostrophes and
            dashes that are spelled differently in the vocabulary.
        max_characters_per_word: length of a row of character ids, marks included; 50 in the published models.
        special_boundary_words: whether the words `<S>` and `</S>` in a text are spelled as sentence boundaries, as in
            both original programs, instead of by their letters. `<UNK>`, `<pad>` and `<mask>` are always spelled by
            their letters.
        bos_token, eos_token, unk_token, pad_token, mask_token: the special tokens. The first three must be in the
            vocabulary, the padding token has id 0, and the mask token is appended if the vocabulary does not have it.
            With `bos_token=None` or `eos_token=None`, sentences do not have that boundary.
        character_vocabulary: a list of characters, or a mapping to their ids from 1 on, for models with their own
            dictionary of code points; `None` for bytes. It is saved as `character_vocabulary.json`.
        character_vocabulary_file: path of that file.
        character_units: `"bytes"` or `"code_points"`; saved to detect a missing dictionary.
        pos_tag_set: the POS tags in the order of their ids, which begin at 1.
        code_point_set: the code points of a task's own character CNN, in the order of their ids.
        lowercase_lookup: whether words are lower-cased (`str.lower`) for the lookup of their ids; character ids remain
            case-sensitive.
        tokens_to_add: words spelled by a single character id, from 0 to 260, in place of their bytes, as AllenNLP's
            option; not with a `character_vocabulary`.
        tokenizer_object, tokenizer_file: a backend, or the `tokenizer.json` of a saved tokenizer, instead of a
            vocabulary.
        kwargs: options of `PreTrainedTokenizerFast`, among them `add_bos_token` and `add_eos_token`.

    Raises:
        ValueError: a vocabulary that lacks a special token, lists a word twice or is not UTF-8, or an option out of
            range; the message names the file, the line and the remedy.
    """

    vocab_files_names = VOCAB_FILES_NAMES
    model_input_names = ["input_ids", "attention_mask", "character_ids"]
    # Saves this code with a tokenizer, for use without the package.
    _auto_class = "AutoTokenizer"

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        vocab: Sequence[str] | Mapping[str, int] | None = None,
        pre_tokenization: str = "ptb",
        max_characters_per_word: int = 50,
        special_boundary_words: bool = True,
        bos_token: str | AddedToken | None = "<S>",
        eos_token: str | AddedToken | None = "</S>",
        unk_token: str | AddedToken = "<UNK>",
        pad_token: str | AddedToken = "<pad>",
        mask_token: str | AddedToken = "<mask>",
        character_vocabulary: Sequence[str] | Mapping[str, int] | None = None,
        character_vocabulary_file: str | os.PathLike[str] | None = None,
        character_units: str | None = None,
        pos_tag_set: Sequence[str] | None = None,
        code_point_set: Sequence[str] | None = None,
        lowercase_lookup: bool = False,
        corpus_pre_tokenization: str = "whitespace",
        character_replacements: Mapping[str, str] | None = None,
        tokens_to_add: Mapping[str, int] | None = None,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self._max_characters_per_word = check_max_characters_per_word(max_characters_per_word)
        self._pre_tokenization = check_pre_tokenization(pre_tokenization)
        self.corpus_pre_tokenization = check_pre_tokenization(corpus_pre_tokenization)
        self._replacements = CharacterReplacements(character_replacements or {})
        self.special_boundary_words = special_boundary_words
        self._dictionary = _read_dictionary(character_vocabulary, character_vocabulary_file, character_units)
        self._pos_tags = None if pos_tag_set is None else PosTags(pos_tag_set)
        self._code_points = None if code_point_set is None else CodePoints(code_point_set)
        self.lowercase_lookup = lowercase_lookup
        if tokens_to_add and self._dictionary is not None:
            raise ValueError(
                f"tokens_to_add={dict(tokens_to_add)} with a dictionary of characters: expected none; add them to the "
                "dictionary"
            )
        self.tokens_to_add = check_tokens_to_add(tokens_to_add or {})

        named: dict[str, Any] = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "unk_token": unk_token,
            "pad_token": pad_token,
            "mask_token": mask_token,
        }
        if tokenizer_object is not None:
            backend = _check_backend(Tokenizer.from_str(tokenizer_object.to_str()), "tokenizer_object")
        elif tokenizer_file is not None:
            backend = _read_backend(tokenizer_file)
        else:
            special_tokens = {name: str(token) for name, token in named.items() if token is not None}
            backend = _make_backend(_word_ids(vocab_file, vocab, special_tokens), str(unk_token))
        # Truncation and padding belong to a call, never to the tokenizer.
        backend.no_truncation()
        backend.no_padding()
        backend.pre_tokenizer = backend_pre_tokenizer(pre_tokenization)
        backend.normalizer = self._replacements.backend_normalizer()
        self._tokenizer = backend

        longest = kwargs.get("model_max_length")
        if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int | float)):
            raise ValueError(f"model_max_length is {longest!r:.60}; expected a number of words")
        # from_pretrained() passes these, and save_pretrained() would save them.
        for name in ("is_local", "local_files_only"):
            kwargs.pop(name, None)
        # The boundaries to add are stored in the saved post-processor, not in the saved options.
        stored = _template_tokens(backend)
        if kwargs.get("add_bos_token") is None:
            kwargs["add_bos_token"] = bos_token is not None and (stored is None or str(bos_token) in stored)
        if kwargs.get("add_eos_token") is None:
            kwargs["add_eos_token"] = eos_token is not None and (stored is None or str(eos_token) in stored)
        super().__init__(
            **named,
            pre_tokenization=pre_tokenization,
            max_characters_per_word=max_characters_per_word,
            special_boundary_words=special_boundary_words,
            character_units="bytes" if self._dictionary is None else "code_points",
            pos_tag_set=self.pos_tag_set,
            code_point_set=self.code_point_set,
            lowercase_lookup=lowercase_lookup,
            corpus_pre_tokenization=corpus_pre_tokenization,
            character_replacements=self.character_replacements,
            tokens_to_add=self.tokens_to_add or None,
            **kwargs,
        )
        for name in ("unk_token", "pad_token"):
            word = getattr(self, name)
            if not word or self.backend_tokenizer.token_to_id(str(word)) is None:
                raise ValueError(f"{name} is {word!r:.60}; expected a word of the vocabulary")
        self._find_added_tokens()
        beside = {"pos_tag_ids": self._pos_tags, "code_point_ids": self._code_points}
        given = [name for name, part in beside.items() if part is not None]
        if given:
            self.model_input_names = [*type(self).model_input_names, *given]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Load a tokenizer; arguments as in `PreTrainedTokenizerBase.from_pretrained`.

        With `elmo_hf` installed, errors name the damaged file.
        """
        named = getattr(package_part("folders"), "damage_named", None)
        with nullcontext() if named is None else named(pretrained_model_name_or_path, "tokenizer"):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    # ---- options

    @property
    def pre_tokenization(self) -> str:
        """Rule that splits raw text into words: "ptb" or "whitespace"."""
        return self._pre_tokenization

    @pre_tokenization.setter
    def pre_tokenization(self, value: str) -> None:
        self._pre_tokenization = check_pre_tokenization(value)
        self.backend_tokenizer.pre_tokenizer = backend_pre_tokenizer(value)

    @property
    def character_replacements(self) -> dict[str, str] | None:
        """Replacements of characters in raw text; `None` without any."""
        return dict(self._replacements.spellings) or None

    @property
    def max_characters_per_word(self) -> int:
        """Length of a row of character ids, word boundary marks included."""
        return self._max_characters_per_word

    @max_characters_per_word.setter
    def max_characters_per_word(self, value: int) -> None:
        self._max_characters_per_word = check_max_characters_per_word(value)

    @property
    def character_vocabulary(self) -> dict[str, int] | None:
        """The character dictionary, character -> id; `None` for bytes."""
        return None if self._dictionary is None else dict(self._dictionary.ids)

    @property
    def num_characters(self) -> int:
        """Number of rows of the model's character table (`ElmoConfig.num_characters`)."""
        return NUM_CHARACTERS if self._dictionary is None else self._dictionary.num_characters

    @property
    def spelling(self) -> Spelling:
        """Converter of words to character ids, with the current options."""
        if self._dictionary is None:
            return ByteSpelling(self._max_characters_per_word, self.tokens_to_add)
        return DictionarySpelling(self._dictionary, self._max_characters_per_word)

    @property
    def pos_tag_set(self) -> list[str] | None:
        """The POS tags in the order of their ids, which begin at 1; `None` without POS tags."""
        return None if self._pos_tags is None else list(self._pos_tags.ids)

    @property
    def code_point_set(self) -> list[str] | None:
        """The code points in the order of their ids; `None` without `code_point_ids`."""
        return None if self._code_points is None else list(self._code_points.ids)

    @property
    def num_code_points(self) -> int:
        """Number of rows of a task's code point table (`ElmoConfig.num_task_characters`); 0 without one."""
        return 0 if self._code_points is None else self._code_points.num_code_points

    def _finder(self) -> Callable[[str], int | None]:
        """Function from a word to its id or `None`; built once per batch, because it is called for every word."""
        find = self.backend_tokenizer.token_to_id
        return (lambda word: find(word.lower())) if self.lowercase_lookup else find

    # ---- text to words

    def words(self, text: str, split_special_tokens: bool | None = None) -> list[tuple[str, tuple[int, int]]]:
        """Split a raw text into words with their (start, end) character offsets.

        Added tokens match anywhere in the text, unless they are special and `split_special_tokens` is true; everything
        else is split by `pre_tokenization`.

        Raises:
            TypeError: not a `str`.
        """
        sentence = self._sentence_of_text(text, split_special_tokens)
        return list(zip(sentence.words, sentence.find_spans() if sentence.find_spans else ()))

    def _sentence_of_text(self, text: str, split_special_tokens: bool | None) -> Sentence:
        if not isinstance(text, str):
            raise TypeError(f"expected a text of type str, got {text!r} of type {type(text).__name__}")
        # Words of the vocabulary, such as `<S>`, are not among the added tokens.
        is_split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        added = self._added_token_expressions[is_split]
        rule, replacements = self._pre_tokenization, self._replacements
        if added is None:
            text = replacements.in_text(text)
            return Sentence(replacements.of_words(split_words(text, rule)), partial(word_spans, text, rule))

        words: list[str] = []
        spans: list[tuple[int, int]] = []
        known = self.backend_tokenizer.token_to_id
        position = 0
        # The end of the text is treated as one more, empty added token.
        for start, end in chain(map(re.Match.span, added.finditer(text)), [(len(text), len(text))]):
            between = replacements.in_text(text[position:start])
            words += replacements.of_words(split_words(between, rule))
            spans += [(position + first, position + last) for first, last in word_spans(between, rule)]
            if start < end:
                # With lstrip or rstrip, the match includes whitespace.
                found = text[start:end]
                words.append(found if known(found) is not None else found.strip())
                spans.append((start, end))
            position = end
        return Sentence(words, lambda: spans)

    def _find_added_tokens(self) -> None:
        # Not computed lazily: `datasets` hashes all attributes for its cache, so a call must not change them.
        base, added = self.vocab_size, self.added_tokens_decoder
        self._added_token_expressions: dict[bool, re.Pattern[str] | None] = {
            split_special_tokens: added_token_expression(
                token
                for number, token in added.items()
                if number >= base and not (token.special and split_special_tokens)
            )
            for split_special_tokens in (False, True)
        }

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        count = super()._add_tokens(new_tokens, special_tokens=special_tokens)
        self._find_added_tokens()
        return count

    # ---- words to ids and characters

    def _encode_plus(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        pos_tags: Any = None,
        pos_tags_pair: Any = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        if kwargs.get("sanitize_control_tokens"):
            raise NotImplementedError("ElmoTokenizer has no control tokens; leave sanitize_control_tokens=False")
        if return_tensors is not None:
            return_tensors = TensorType(return_tensors)
        samples, is_batched = _samples(text, text_pair, is_split_into_words)

        # 1. Split into words and look them up.
        if is_split_into_words:
            batch = [[Sentence(tuple(words), None) for words in sample] for sample in samples]
        else:
            batch = [[self._sentence_of_text(text, split_special_tokens) for text in sample] for sample in samples]
        lexicon = Lexicon(
            (sentence.words for sample in batch for sentence in sample),
            self._special_tokens(),
            self._finder(),
            self.special_boundary_words,
            self.spelling,
        )
        tags = self._pos_tag_ids(batch, is_batched, is_split_into_words, pos_tags, pos_tags_pair)

        # 2. Add sentence boundaries and truncate: each row is one example, as numbers of the lexicon.
        template = Template(self.backend_tokenizer.post_processor, add_special_tokens)
        limit = None if truncation_strategy == TruncationStrategy.DO_NOT_TRUNCATE else max_length
        rows: list[list[int]] = []
        tag_rows: list[list[int]] = []
        encodings: list[Encoding | Callable[[], Encoding]] = []
        sample_of: list[int] = []
        for index, sample in enumerate(batch):
            numbers = [lexicon.numbers(sentence.words) for sentence in sample]
            added = template.count_added(len(sample))
            if limit is not None and sum(map(len, numbers)) + added > limit:
                parts = [lexicon.encoding(sentence) for sentence in sample]
                truncate(parts, limit - added, limit, stride, truncation_strategy.value, self.truncation_side)
                whole = template.apply(parts)
                chunks = [whole, *whole.overflowing] if return_overflowing_tokens else [whole]
                rows += [values_of_encoding(chunk, numbers, lexicon) for chunk in chunks]
                if tags is not None:
                    tag_rows += [values_of_encoding(chunk, tags[index], lexicon, NO_TAG) for chunk in chunks]
                encodings += chunks
                sample_of += [index] * len(chunks)
            else:
                rows.append(template.arrange(numbers, lexicon))
                if tags is not None:
                    tag_rows.append(template.arrange(tags[index], lexicon, NO_TAG))
                encodings.append(partial(_make_encoding, sample, lexicon, template))
                sample_of.append(index)

        # 3. Pad.
        length = _padded_length(rows, padding_strategy, max_length, pad_to_multiple_of)
        if length is not None:
            side = _check_side(self.padding_side if padding_side is None else padding_side)
            token = {"pad_id": self.pad_token_id, "pad_token": self.pad_token, "direction": side}
            for index, row in enumerate(rows):
                fill = [PADDING] * (length - len(row))
                if fill:
                    rows[index] = row + fill if side == "right" else fill + row
                    if tags is not None:
                        none = [0] * len(fill)
                        tag_rows[index] = tag_rows[index] + none if side == "right" else none + tag_rows[index]
                    encodings[index] = partial(_pad_encoding, encodings[index], length, token)

        # 4. Build the requested outputs.
        lengths = list(map(len, rows))
        longest = max(lengths, default=0)
        if longest > self.model_max_length:
            self._eventual_warn_about_too_long_sequence([0] * longest, max_length, verbose)
        numbers_of_all = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=sum(lengths))
        arrange = _Arrangement(lengths, return_tensors)
        names = self.model_input_names
        lazy = LazyEncodings(encodings)
        data: dict[str, Any] = {"input_ids": arrange.integers(lexicon.word_ids()[numbers_of_all])}
        if "token_type_ids" in names if return_token_type_ids is None else return_token_type_ids:
            data["token_type_ids"] = [encoding.type_ids for encoding in lazy]
        if "attention_mask" in names if return_attention_mask is None else return_attention_mask:
            data["attention_mask"] = arrange.integers((numbers_of_all != PADDING).astype(np.int64))
        if "character_ids" in names:
            data["character_ids"] = arrange.rows(lexicon.character_ids(), numbers_of_all)
        if self._code_points is not None and "code_point_ids" in names:
            spelled = lexicon.spelled(self._code_points.spell)
            code_points = [list(chain.from_iterable(map(spelled.__getitem__, row))) for row in rows]
            data["code_point_ids"] = arrange.padded(
                code_points, None if length is None else self.padding_side if padding_side is None else padding_side
            )
        if tags is not None:
            data["pos_tag_ids"] = arrange.integers(np.array(list(chain.from_iterable(tag_rows)), np.int64))
        if return_special_tokens_mask:
            data["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in lazy]
        if return_offsets_mapping:
            data["offset_mapping"] = [encoding.offsets for encoding in lazy]
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = sample_of
        if not is_batched and return_tensors is None and not return_overflowing_tokens:
            data = {name: value[0] for name, value in data.items()}
        if return_length:
            data["length"] = lengths  # a list also for a single text, as in Transformers
        return ElmoEncoding(data, lazy, tensor_type=return_tensors, n_sequences=len(batch[0]) if batch else None)

    def _pos_tag_ids(
        self,
        batch: list[list[Sentence]],
        is_batched: bool,
        is_split_into_words: bool,
        pos_tags: Any,
        pos_tags_pair: Any,
    ) -> list[list[list[int]]] | None:
        """Ids of the POS tags, by sample, sentence and word; `None` if no tags were given."""
        if pos_tags is None:
            if pos_tags_pair is not None:
                raise ValueError("pos_tags_pair without pos_tags: expected the tags of both sequences")
            return None
        if self._pos_tags is None:
            raise ValueError(
                "pos_tags were given, but this tokenizer has no tags: make it with pos_tag_set=[...], the tags in "
                "the order of the model's ids"
            )
        if not is_split_into_words:
            raise ValueError(
                "pos_tags with raw text: expected words, one for each tag; pass lists of words "
                "and is_split_into_words=True"
            )
        tags, tags_are_batched = _samples(pos_tags, pos_tags_pair, True)
        if tags_are_batched != is_batched or list(map(len, tags)) != list(map(len, batch)):
            raise ValueError(
                f"pos_tags are {len(tags)} samples of {[len(each) for each in tags][:4]} sequences for {len(batch)} "
                f"samples of {[len(each) for each in batch][:4]} sequences; expected tags shaped as the words"
            )
        return [
            [self._pos_tags.ids_of(some, sentence.words) for some, sentence in zip(sample_tags, sample)]
            for sample_tags, sample in zip(tags, batch)
        ]

    def _special_tokens(self) -> SpecialTokens:
        # Boundaries may be None.
        bos, eos = self.bos_token, self.eos_token
        return SpecialTokens(
            pad=self.pad_token,
            pad_id=self.pad_token_id,
            begin=NO_TOKEN if bos is None else bos,
            begin_id=NO_TOKEN_ID if bos is None else self.bos_token_id,
            end=NO_TOKEN if eos is None else eos,
            end_id=NO_TOKEN_ID if eos is None else self.eos_token_id,
            unknown_id=self.unk_token_id,
            mask=self.mask_token,
        )

    # ---- padding after encoding: tokenizer.pad(), which collators call

    def _pad(
        self,
        encoded_inputs: Any,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> Any:
        character_ids, tags = encoded_inputs.get("character_ids"), encoded_inputs.get("pos_tag_ids")
        words = len(encoded_inputs[self.model_input_names[0]])
        padded = super()._pad(
            encoded_inputs, max_length, padding_strategy, pad_to_multiple_of, padding_side, return_attention_mask
        )
        missing = len(padded[self.model_input_names[0]]) - words
        side = self.padding_side if padding_side is None else padding_side
        if tags is not None:
            if len(tags) != words:
                raise ValueError(
                    f"pos_tag_ids has {len(tags)} values for {words} input_ids; expected one for each word. Pad "
                    "encodings as this tokenizer returned them"
                )
            none = [0] * missing
            padded["pos_tag_ids"] = [*tags, *none] if side == "right" else [*none, *tags]
        if character_ids is None:
            return padded
        rows = np.asarray(character_ids, dtype=self.spelling.dtype)
        if rows.size == 0:
            rows = rows.reshape(0, self.max_characters_per_word)
        if rows.ndim != 2 or len(rows) != words:
            raise ValueError(
                f"character_ids has shape {rows.shape} for {words} input_ids; expected one row of characters for each "
                "word. Pad encodings as this tokenizer returned them"
            )
        if missing > 0:
            rows = np.pad(rows, ((0, missing) if side == "right" else (missing, 0), (0, 0)))
        padded["character_ids"] = rows
        return padded

    def pad(self, encoded_inputs: Any, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Pad encodings, as `PreTrainedTokenizerBase.pad`; `character_ids` are zero at padding words.

        As in a call, `character_ids` are int16 in lists of arrays and int64 in tensors.
        """
        rows, encoded_inputs = _without_code_points(encoded_inputs)
        padded = super().pad(encoded_inputs, *args, **kwargs)
        if rows is not None:
            padded["code_point_ids"] = self._pad_code_points(rows, padded, kwargs.get("padding_side"))
        character_ids = padded.get("character_ids")
        if isinstance(character_ids, np.ndarray):
            # A single example without return_tensors, or return_tensors="np".
            if isinstance(padded[self.model_input_names[0]], np.ndarray):
                padded["character_ids"] = character_ids.astype(np.int64)
        elif character_ids is not None and not isinstance(character_ids, list):
            padded["character_ids"] = character_ids.long()
        return padded

    def _pad_code_points(self, rows: Any, padded: BatchEncoding, side: str | None) -> Any:
        """Pad `code_point_ids` of one example or a batch and convert them to the type of the other padded inputs."""
        ids = padded[self.model_input_names[0]]
        is_single = isinstance(ids, list) and not (ids and isinstance(ids[0], list))
        if is_single:
            return rows
        table = padded_code_points(rows, self.padding_side if side is None else side)
        if isinstance(ids, list):
            return table.tolist()
        return table if isinstance(ids, np.ndarray) else ids.new_tensor(table)

    # ---- files

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Pass the files to the constructor unchanged: the default would silently replace a saved pre-tokenizer."""
        if all(kwargs.get(name) is None for name in ("tokenizer_file", "vocab_file", "vocab", "tokenizer_object")):
            # Otherwise a folder without its vocabulary would load as a tokenizer with an empty one.
            raise ValueError(
                f"{kwargs.get('name_or_path')}: neither tokenizer.json nor vocab.txt; expected the folder of a saved "
                "ElmoTokenizer. Save it again, or create one without a vocabulary with ElmoTokenizer()"
            )
        return kwargs

    @classmethod
    def _patch_mistral_regex(cls, tokenizer: Tokenizer, *args: Any, **kwargs: Any) -> Tokenizer:
        """Return the tokenizer unchanged; the default would query the Hub for vocabularies of over 100,000 words."""
        return tokenizer

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        path = Path(save_directory, (filename_prefix + "-" if filename_prefix else "") + "tokenizer.json")
        with appearing(path) as aside:
            self.backend_tokenizer.save(str(aside))
        remove_old_code = getattr(package_part("old_code"), "remove_old_code", None)
        if remove_old_code is not None:
            remove_old_code(path.parent, "tokenizer")
        if self._dictionary is None:
            return (*file_names, str(path))
        beside = path.with_name(path.name.removesuffix("tokenizer.json") + CHARACTER_VOCABULARY)
        self._dictionary.save(beside)
        return (*file_names, str(path), str(beside))

    def save_vocabulary(self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.txt` in the originals' format and return its path.

        The padding token is omitted, and so is a mask token that comes last, because reading the file adds both. Added
        tokens are saved in `tokenizer.json` only.

        Raises:
            NotADirectoryError: `save_directory` does not exist.
            ValueError: a word that a line cannot hold, as `write_vocabulary`.
        """
        if not os.path.isdir(save_directory):
            raise NotADirectoryError(f"{save_directory}: expected an existing folder to write vocab.txt into")
        vocabulary = self.backend_tokenizer.get_vocab(with_added_tokens=False)
        words = sorted(vocabulary, key=vocabulary.__getitem__)[1:]
        if words and words[-1] == self.mask_token:
            words.pop()
        path = Path(save_directory, (filename_prefix + "-" if filename_prefix else "") + "vocab.txt")
        write_vocabulary(words, path)
        return (str(path),)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        min_frequency: int = 1,
        **kwargs: Any,
    ) -> "ElmoTokenizer":
        """Build a tokenizer with the same options and the most frequent words of a corpus, by decreasing frequency.

        The log-uniform sampling of bilm-tf's softmax assumes this order.

        Args:
            text_iterator: texts, lists of texts, or lists of sentences that are lists of words.
            vocab_size: number of ids, special tokens included, `new_special_tokens` excluded.
            length: ignored.
            new_special_tokens: additional special tokens.
            special_tokens_map: new names for special tokens, old name -> new name.
            min_frequency: minimum number of occurrences of a word.

        Raises:
            ValueError: `vocab_size` is smaller than the number of special tokens.
        """
        renamed = dict(special_tokens_map or {})
        named = {
            name: renamed.get(token, token)
            for name in self.SPECIAL_TOKENS_ATTRIBUTES
            if (token := getattr(self, name)) is not None
        }
        first = [named[name] for name in FIRST_TOKENS if name in named]
        base = {*first, named["pad_token"], named["mask_token"]}
        if vocab_size < len(base):
            raise ValueError(f"vocab_size is {vocab_size}; expected at least {len(base)}, the number of special tokens")
        extra = [*self._extra_special_tokens, *(new_special_tokens or ())]

        counts: Counter[str] = Counter()
        for words in self._corpus_words(text_iterator):
            counts.update(map(str.lower, words) if self.lowercase_lookup else words)
        special = base.union(map(str, extra))
        frequent = sorted(
            (
                word
                for word, count in counts.items()
                if count >= min_frequency and word and word not in special and is_vocabulary_word(word)
            ),
            key=lambda word: (-counts[word], word),
        )
        options: dict[str, Any] = {**self.init_kwargs, **named}
        for name in ("added_tokens_decoder", "name_or_path", "extra_special_tokens"):
            options.pop(name, None)
        # Current values, which may have been changed since.
        present = "pre_tokenization max_characters_per_word special_boundary_words padding_side lowercase_lookup"
        for name in present.split():
            options[name] = getattr(self, name)
        options["add_bos_token"], options["add_eos_token"] = self.add_bos_token, self.add_eos_token
        if extra:
            options["extra_special_tokens"] = extra
        options["character_vocabulary"] = self.character_vocabulary
        return type(self)(vocab=[*first, *frequent[: vocab_size - len(base)]], **options)

    def _corpus_words(self, texts: Iterable[Any]) -> Iterator[Sequence[str]]:
        """Yield the words of each text of nested lists; a list of lists of words is a list of sentences."""
        for text in texts:
            if isinstance(text, str):
                yield self._sentence_of_text(text, None).words
            elif text and isinstance(text[0], str):
                yield from self._corpus_words(text)
            else:
                yield from text


def _samples(text: Any, text_pair: Any, is_split_into_words: bool) -> tuple[list[tuple[Any, ...]], bool]:
    """Normalize the inputs of a call to samples of one or two sequences, each a text or a list of words.

    Accepts the same inputs as `PreTrainedTokenizerFast`: a sequence or a batch, with second sequences in `text_pair` or
    as pairs in the batch.

    Returns:
        The samples, and whether the input is a batch.
    """

    def is_sequence(value: Any) -> bool:
        if not is_split_into_words:
            return isinstance(value, str)
        return isinstance(value, (list, tuple)) and not (value and isinstance(value[0], (list, tuple)))

    expected = "a list of words" if is_split_into_words else "a text (str)"
    if not isinstance(text, (str, list, tuple)):
        raise ValueError(
            f"text input is {text!r} of type {type(text).__name__}; expected {expected} or a list of such sequences or "
            "of pairs of them (turn columns and arrays into lists)"
        )
    if is_split_into_words and isinstance(text, str):
        raise ValueError(f"is_split_into_words=True, but the input is the text {text!r}; expected a list of words")

    if is_sequence(text):
        if text_pair is None:
            return [(text,)], False
        if not is_sequence(text_pair):
            raise ValueError(f"text_pair is {text_pair!r}; expected {expected}, like the first sequence")
        return [(text, text_pair)], False

    if text_pair is not None:
        if not isinstance(text_pair, (list, tuple)):
            raise TypeError(f"text_pair is {text_pair!r}; expected a list with one sequence for each of the batch")
        if len(text_pair) != len(text):
            raise ValueError(
                f"batch length of `text`: {len(text)} does not match batch length of `text_pair`: {len(text_pair)}"
            )
        text = list(zip(text, text_pair))

    samples: list[tuple[Any, ...]] = []
    for index, sample in enumerate(text):
        if is_sequence(sample):
            samples.append((sample,))
        elif isinstance(sample, (list, tuple)) and len(sample) == 2 and all(map(is_sequence, sample)):
            samples.append(tuple(sample))
        else:
            raise ValueError(
                f"item {index} of the batch is {sample!r}; expected {expected} or a pair of such sequences"
                + ("" if is_split_into_words else ". For lists of words pass is_split_into_words=True")
            )
    return samples, True


def _without_code_points(encoded: Any) -> tuple[Any, Any]:
    """Split encodings into their `code_point_ids`, or `None`, and the encodings without them."""
    name = "code_point_ids"
    if isinstance(encoded, Mapping):
        rest = {other: value for other, value in encoded.items() if other != name}
        return (encoded[name], rest) if name in encoded else (None, encoded)
    if not encoded or name not in encoded[0]:
        return None, encoded
    return [each[name] for each in encoded], [_without_code_points(each)[1] for each in encoded]


def _padded_length(
    rows: list[list[int]], strategy: PaddingStrategy, max_length: int | None, multiple: int | None
) -> int | None:
    """Length to pad to; `None` for no padding."""
    if strategy == PaddingStrategy.DO_NOT_PAD or not rows:
        return None
    if strategy == PaddingStrategy.MAX_LENGTH and max_length is not None:
        length = max_length
    else:
        length = max(map(len, rows))
    return -(-length // multiple) * multiple if multiple else length


def _check_side(side: str) -> str:
    if side not in ("left", "right"):
        raise ValueError(f"padding_side is {side!r}; expected 'left' or 'right'")
    return side


def _make_encoding(sample: list[Sentence], lexicon: Lexicon, template: Template) -> Encoding:
    return template.apply([lexicon.encoding(sentence) for sentence in sample])


def _pad_encoding(encoding: Encoding | Callable[[], Encoding], length: int, token: dict[str, Any]) -> Encoding:
    made = encoding if isinstance(encoding, Encoding) else encoding()
    made.pad(length, **token)
    return made


class _Arrangement:
    """Conversion of the concatenated values of all tokens to one list per example, or to one tensor."""

    def __init__(self, lengths: list[int], return_tensors: TensorType | None) -> None:
        self._ends = np.cumsum(lengths, dtype=np.int64).tolist()
        self._lengths = lengths
        self._tensors = return_tensors
        # Examples of different lengths remain lists: BatchEncoding then raises an error with the remedy.
        self._as_lists = return_tensors is None or len(set(lengths)) > 1

    def integers(self, values: NDArray[np.int64]) -> Any:
        """Values of shape (tokens,) -> lists, or a tensor (batch, words)."""
        return self._split(values.tolist()) if self._as_lists else self._tensor(values)

    def rows(self, table: NDArray[np.signedinteger], numbers: NDArray[np.int64]) -> Any:
        """Rows of a table -> arrays (words, width) of its dtype, or an int64 tensor (batch, words, width)."""
        rows = table.take(numbers, axis=0)
        return self._split(rows) if self._as_lists else self._tensor(rows.astype(np.int64))

    def padded(self, rows: list[list[int]], side: str | None) -> Any:
        """Rows of any lengths -> lists, padded with zeros on `side` unless `None`, or a tensor (batch, longest)."""
        if self._as_lists:
            return rows if side is None else padded_code_points(rows, side).tolist()
        return self._converted(padded_code_points(rows, side or "right"))

    def _split(self, values: Any) -> list[Any]:
        return [values[end - length : end] for end, length in zip(self._ends, self._lengths)]

    def _tensor(self, values: NDArray[np.int64]) -> Any:
        shape = len(self._lengths), self._lengths[0] if self._lengths else 0, *values.shape[1:]
        return self._converted(values.reshape(shape))

    def _converted(self, values: NDArray[np.int64]) -> Any:
        if self._tensors != TensorType.PYTORCH:
            return values
        import torch

        return torch.from_numpy(values)


def _read_dictionary(
    symbols: Sequence[str] | Mapping[str, int] | None, path: str | os.PathLike[str] | None, units: str | None
) -> CharacterDictionary | None:
    if symbols is not None and path is not None:
        raise ValueError("expected either character_vocabulary or character_vocabulary_file, not both")
    if units not in (None, "bytes", "code_points"):
        raise ValueError(f"character_units is {units!r}; expected 'bytes' or 'code_points'")
    given = symbols is not None or path is not None
    if units is not None and given != (units == "code_points"):
        raise ValueError(
            f"character_units is {units!r}, but there is {'a' if given else 'no'} dictionary of characters; "
            + (
                "omit one of the two"
                if given
                else f"a saved tokenizer has it in {CHARACTER_VOCABULARY}: save it again, or pass character_vocabulary"
            )
        )
    if path is not None:
        return CharacterDictionary.load(path)
    return None if symbols is None else CharacterDictionary(symbols)


def _word_ids(
    vocab_file: str | os.PathLike[str] | None,
    vocab: Sequence[str] | Mapping[str, int] | None,
    special_tokens: Mapping[str, str],
) -> dict[str, int]:
    """Ids of all words, from a file, a list or a mapping, or of the special tokens only."""
    if vocab_file is not None and vocab is not None:
        raise ValueError("expected either vocab_file or vocab, not both")
    pad, mask = special_tokens["pad_token"], special_tokens["mask_token"]
    words: Sequence[str]
    if isinstance(vocab, Mapping):
        where = "vocab"
        ids = check_numbering(vocab, pad, mask, where)
    else:
        if vocab_file is not None:
            where, words = str(vocab_file), read_vocabulary(vocab_file)
        elif vocab is not None:
            where, words = "vocab", vocab
        else:
            where, words = (
                "the special tokens",
                [special_tokens[name] for name in FIRST_TOKENS if name in special_tokens],
            )
        ids = number_words(words, pad, mask, where)
    check_words(ids, special_tokens, where)
    return ids


def _make_backend(ids: dict[str, int], unk_token: str) -> Tokenizer:
    # Longer words are unknown anyway; the limit avoids a search for word pieces in quadratic time.
    longest = max(map(len, ids))
    return Tokenizer(
        WordPiece(ids, unk_token=unk_token, continuing_subword_prefix=_CONTINUATION, max_input_chars_per_word=longest)
    )


def _read_backend(path: str | os.PathLike[str]) -> Tokenizer:
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"{path}: no readable tokenizer.json ({error}); save the tokenizer again") from error
    return _check_backend(backend, str(path))


def _check_backend(backend: Tokenizer, where: str) -> Tokenizer:
    if getattr(backend.model, "continuing_subword_prefix", None) != _CONTINUATION:
        raise ValueError(
            f"{where}: holds a {type(backend.model).__name__} model of another tokenizer; expected the tokenizer.json "
            "of an ElmoTokenizer. Load it with the class that wrote it"
        )
    return backend


def _template_tokens(backend: Tokenizer) -> set[str] | None:
    """Tokens that a loaded backend adds around a sentence; `None` for a new backend without a post-processor."""
    if backend.post_processor is None:
        return None
    return set(json.loads(backend.post_processor.__getstate__()).get("special_tokens", {}))
