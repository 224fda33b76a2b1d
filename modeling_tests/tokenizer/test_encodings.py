"""Templates, truncation and encodings, compared with the `tokenizers` library's own."""

import copy
import pickle

import pytest
from tokenizers import Encoding, Tokenizer

from elmo_hf import ElmoTokenizer
from elmo_hf.tokenizer.characters import ByteSpelling
from elmo_hf.tokenizer.encodings import BEGIN_OF_SENTENCE, LazyEncodings, Lexicon, SpecialTokens, truncate

VOCABULARY = ["<S>", "</S>", "<UNK>", "the", ".", "Mary", "do", "n't", "know", "(", ")", "New", "York", "ist", "naïve"]


def lexicon(*words: str, special_boundary_words: bool = True, length: int = 4) -> Lexicon:
    tokens = SpecialTokens(pad="<pad>", pad_id=0, begin="<S>", begin_id=1, end="</S>", end_id=2, unknown_id=3)
    return Lexicon([words], tokens, {"a": 7, "<S>": 1}.get, special_boundary_words, ByteSpelling(length))


def test_lexicon() -> None:
    words = ["a", "b", "a", "<S>"]
    ours = lexicon(*words)
    assert ours.numbers(words) == [3, 4, 3, 5]
    assert ours.number_of_special_token(1, "<S>") == BEGIN_OF_SENTENCE
    assert ours.number_of_special_token(9, "c") == 6 == ours.number_of_special_token(9, "c")
    assert ours.word_ids().tolist() == [0, 1, 2, 7, 3, 1, 9]
    rows = ours.character_ids().tolist()
    assert rows == [
        [0, 0, 0, 0],
        [259, 257, 260, 261],
        [259, 258, 260, 261],
        [259, 98, 260, 261],
        [259, 99, 260, 261],
        [259, 257, 260, 261],
        [259, 100, 260, 261],
    ]
    letters = lexicon(*words, special_boundary_words=False).character_ids().tolist()
    assert letters[5] == [259, ord("<") + 1, ord("S") + 1, 260]


def test_lazy_encodings() -> None:
    made = []

    def make(index: int) -> Encoding:
        made.append(index)
        return Encoding()

    encodings = LazyEncodings([lambda: make(0), lambda: make(1), Encoding(), lambda: make(3)])
    assert len(encodings) == 4
    assert made == []
    assert encodings[1] is encodings[1]
    assert isinstance(encodings[-1], Encoding)
    assert made == [1, 3]
    assert [type(encoding) for encoding in encodings[1:]] == [Encoding] * 3
    assert made == [1, 3]
    with pytest.raises(IndexError):
        encodings[4]
    assert type(pickle.loads(pickle.dumps(encodings))) is type(copy.deepcopy(encodings)) is list
    assert made == [1, 3, 0]


def test_truncation_needs_room() -> None:
    with pytest.raises(ValueError, match="max_length.*1.*2"):
        truncate([Encoding()], -1, 1, 0, "longest_first", "right")


STRATEGIES = ["longest_first", "only_first", "only_second"]


@pytest.mark.samples(5)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stride", [0, 1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_truncation_equals_the_backends(side: str, stride: int, strategy: str) -> None:
    """Against the `tokenizers` library's truncation of the same words, all lengths and limits of small samples."""
    tokenizer = ElmoTokenizer(vocab=VOCABULARY, truncation_side=side)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    compared = 0
    for first in range(8):
        for second in (None, *range(0, 8, 2), 7):
            one, two = " ".join(["the"] * first), None if second is None else " ".join(["Mary"] * second)
            for limit in range(2 if two is None else 4, 18):
                try:
                    ours = tokenizer(
                        one,
                        two,
                        truncation=strategy,
                        max_length=limit,
                        stride=stride,
                        return_overflowing_tokens=True,
                        return_offsets_mapping=True,
                    )
                except ValueError:
                    continue  # the backend raises too, or panics
                if stride and stride >= limit - (2 if two is None else 4):
                    continue  # refused by the backend even without truncation
                backend.enable_truncation(limit, stride=stride, strategy=strategy, direction=side)
                theirs = backend.encode(one, two)
                chunks = [theirs, *theirs.overflowing]
                assert ours["input_ids"] == [chunk.ids for chunk in chunks]
                assert ours["offset_mapping"] == [chunk.offsets for chunk in chunks]
                assert [encoding.word_ids for encoding in ours.encodings] == [chunk.word_ids for chunk in chunks]
                assert [len(rows) for rows in ours["character_ids"]] == [len(chunk) for chunk in chunks]
                compared += 1
    assert compared > 300


@pytest.mark.parametrize("options", [{}, {"return_tensors": "pt"}, {"return_tensors": "np"}, {"padding": True}])
def test_encodings_compare(options):
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    one, same, other = (tokenizer(["a b", text], **options) for text in ("c d", "c d", "c x"))
    assert one == same
    assert one != other and one != dict(one, extra=1) and one != 1
    assert tokenizer("a") == tokenizer("a") and tokenizer("a") != tokenizer("b")
