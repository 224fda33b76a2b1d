import time

import pytest
from tokenizers import AddedToken

from elmo_hf.tokenizer.pretokenization import (
    PRE_TOKENIZATIONS,
    CharacterReplacements,
    added_token_expression,
    backend_pre_tokenizer,
    check_pre_tokenization,
    split_words,
    word_spans,
)

# Each text with its words as Penn-Treebank-like tokens, divided by single spaces.
PENN_TREEBANK = [
    ("I don't know; it's \"fine\", isn't it?", "I do n't know ; it 's \" fine \" , is n't it ?"),
    ("Can't you? We cannot, won't; they've.", "Ca n't you ? We can not , wo n't ; they 've ."),
    ("I'd've said y'all shouldn’t, she’ll go", "I 'd 've said y'all should n’t , she ’ll go"),
    ("DON'T I'M HE'S CANNOT", "DO N'T I 'M HE 'S CAN NOT"),
    ("can not do n't it 's n't 's", "can not do n't it 's n't 's"),
    ("gonna gotta wanna gimme lemme Cannot", "gon na got ta wan na gim me lem me Can not"),
    ("nothing cannotation gonnas canned", "nothing cannotation gonnas canned"),
    ("'tis 'twas 'em 'til '90s the '90s' end", "'t is 't was 'em 'til '90s the '90s ' end"),
    ("the dogs' 'quoted' words, James's", "the dogs ' ' quoted ' words , James 's"),
    ("O'Neill's rock'n'roll o'clock ma'am", "O'Neill 's rock'n'roll o'clock ma'am"),
    ("``PTB quotes'' stay", "`` PTB quotes '' stay"),
    ("“Curly” ‘quotes’ «too»", "“ Curly ” ‘ quotes ’ « too »"),
    ("Mr. Smith (U.S. Senate) met Dr. Wu at 10:30 p.m.", "Mr. Smith ( U.S. Senate ) met Dr. Wu at 10:30 p.m."),
    ("the U.S.-led e.g., i.e. Ph.D. vs. etc.", "the U.S.-led e.g. , i.e. Ph.D. vs. etc."),
    ("It's in the U.S.A. now. The end.", "It 's in the U.S.A. now . The end ."),
    ("John F. Kennedy is older than I. Yes.", "John F. Kennedy is older than I . Yes ."),
    ("No. 5, pp. 3-4, but no. Not that.", "No. 5 , pp. 3-4 , but no . Not that ."),
    ("$1,000.50, 5% of -5 or .5 and $.50.", "$ 1,000.50 , 5 % of -5 or .5 and $ .50 ."),
    ("3/4 2010-12-31 192.168.0.1 v1.2 1st 5°C", "3/4 2010-12-31 192.168.0.1 v1.2 1st 5 ° C"),
    ("1,2,3, and 10:30, either/or", "1,2,3 , and 10:30 , either / or"),
    ("wait...what?! Really!!! . . .", "wait ... what ? ! Really ! ! ! . . ."),
    ("well-known--yes— no – and …", "well-known -- yes — no – and …"),
    ("See http://t.co/AbC?x=1. Or (www.example.com/a-b).", "See http://t.co/AbC?x=1 . Or ( www.example.com/a-b ) ."),
    ("mail a.b+c@x-y.org! or @user's #topic #1 C#", "mail a.b+c@x-y.org ! or @user 's #topic # 1 C #"),
    ("AT&T, R&D & snake_case", "AT&T , R&D & snake_case"),
    ("(Mary) [x] {y} <z> a<b", "( Mary ) [ x ] { y } <z> a < b"),
    ("<S> one</S> a<UNK>b </p>", "<S> one </S> a <UNK> b </p>"),
    ("👩‍👩‍👧 ❤️🇩🇪🇫🇷 👍🏽! a🙂b 1️⃣", "👩‍👩‍👧 ❤️ 🇩🇪 🇫🇷 👍🏽 ! a 🙂 b 1️⃣"),
    ("नमस्ते दुनिया। 你好，世界。 naïve cafe\u0301", "नमस्ते दुनिया । 你好 ， 世界 。 naïve cafe\u0301"),
    ("می\u200cروم، soft\xadhyphen", "می\u200cروم ، soft\xadhyphen"),
    ("**bold** ==== ~~~ ###", "** bold ** ==== ~~~ ###"),
]

# Texts in which boundaries are difficult or the two engines might disagree.
AWKWARD = [
    "",
    " ",
    "\t\n \x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000",
    "a\x1cb\x85c\xa0d\u2028e\u3000f\u200bg\ufeffh",
    "\0 a\0b \x01",
    "'",
    "''' ``` \"\"\" ' ' '",
    "-- - -5 +5 +-5 --5 (-5) (.5) 5. .5. ...5 -.5",
    "n't n’t 'nt n't-x don't-x can't've",
    "U.S U.S. U.S.A U.S.A. U.S.x a.b. a.b.c",
    "@ @@ @_ @1 @1a # #_ #a_b http:// http://. www. www.. a@b a@b.c a@b.c-d",
    "< </ <a <a> </a> <a b> <<a>> <1>",
    "\u0301 a\u0301 .\u0301 \ufe0f ©️ \u200d 🇩 🇩🇪🇫",
    "x" * 10_000,
]
BODY = " ".join([*(text for text, _ in PENN_TREEBANK), *AWKWARD])


def words(text: str, pre_tokenization: str = "ptb") -> list[str]:
    found = [text[start:end] for start, end in word_spans(text, pre_tokenization)]
    assert split_words(text, pre_tokenization) == found
    return found


@pytest.mark.parametrize(("text", "expected"), PENN_TREEBANK)
def test_penn_treebank_like_words(text: str, expected: str) -> None:
    assert words(text) == expected.split(" ")


def test_lone_surrogates_belong_to_words() -> None:
    assert words("a\ud800b, \udfff") == ["a\ud800b", ",", "\udfff"]


@pytest.mark.parametrize("text", [text for text, _ in PENN_TREEBANK])
def test_words_divided_by_spaces_stay_as_they_are(text: str) -> None:
    """Text already tokenized by the rules is not split again."""
    divided = " ".join(words(text))
    assert words(divided) == divided.split(" ")


@pytest.mark.parametrize("text", [BODY, *AWKWARD])
@pytest.mark.parametrize("pre_tokenization", PRE_TOKENIZATIONS)
def test_spans_cover_everything_but_whitespace(text: str, pre_tokenization: str) -> None:
    spans = word_spans(text, pre_tokenization)
    position = 0
    for start, end in spans:
        assert position <= start < end
        assert not text[position:start].strip()
        assert not any(character.isspace() for character in text[start:end])
        position = end
    assert not text[position:].strip()


@pytest.mark.parametrize("text", [BODY, *AWKWARD])
def test_whitespace_rule_equals_str_split(text: str) -> None:
    assert words(text, "whitespace") == text.split()


@pytest.mark.parametrize("pre_tokenization", PRE_TOKENIZATIONS)
def test_saved_pre_tokenizer_finds_the_same_words(pre_tokenization: str) -> None:
    """The `tokenizers` library's engine reads the expression in the same way as Python's."""
    backend = backend_pre_tokenizer(pre_tokenization)
    every_character = " ".join(f"a{chr(code)}b {chr(code)}" for code in [*range(0x3100), *range(0x1F000, 0x1FB00)])
    for text in [BODY, every_character, *AWKWARD]:
        spans = word_spans(text, pre_tokenization)
        assert backend.pre_tokenize_str(text) == [(text[start:end], (start, end)) for start, end in spans]


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    ["a", "a.", "a-", "a+", "a@", "-.", "'", "n't", "<a", "@1", "www.", "http://", "http://(", "a's", "\u0301", "."],
)
def test_time_grows_with_the_length_only(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    start = time.process_time()
    word_spans(text, "ptb")
    assert time.process_time() - start < 2  # seconds; 0.1 where the time is linear, minutes where it is quadratic


def test_unknown_rule() -> None:
    with pytest.raises(ValueError, match="pre_tokenization.*'moses'.*'ptb'.*'whitespace'"):
        check_pre_tokenization("moses")


def test_added_tokens() -> None:
    assert added_token_expression([]) is None
    expression = added_token_expression(
        [
            AddedToken("New York"),
            AddedToken("New York City"),
            AddedToken("[E1]", lstrip=True, rstrip=True),
            AddedToken("cat", single_word=True),
        ]
    )
    assert expression is not None
    text = "New York City cats, cat [E1] xNew Yorkx"
    assert [match.span() for match in expression.finditer(text)] == [(0, 13), (20, 23), (23, 29), (30, 38)]


@pytest.mark.parametrize("wrong", [{"ab": "c"}, {"a": ""}, {" ": "_"}, {"a": "b c"}, {"": "a"}])
def test_invalid_replacements(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="character_replacements.*expected"):
        CharacterReplacements(wrong)
