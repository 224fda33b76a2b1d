"""Pre-tokenization of raw text: a Penn-Treebank-like rule and a whitespace rule.

The published models read Penn-Treebank/Moses-style tokens ("do n't", separate punctuation). Each rule is one regular
expression that *matches* the words; everything between matches is whitespace. Text is not rewritten: a word is a span
of the text, so quotes are kept and every word has character offsets.

The expressions use only syntax that Python's `re` and the regex engine of the `tokenizers` library share. They spell
out character classes, because the two engines define `\\w` and `\\s` differently. So the same expression is used here
and in the `tokenizer.json` of a saved tokenizer.
"""

import re
from collections.abc import Iterable, Mapping

from tokenizers import AddedToken, Regex, normalizers
from tokenizers.normalizers import Normalizer, Replace
from tokenizers.pre_tokenizers import PreTokenizer, Split

# Whitespace of Python's str.split(), by which the originals read their corpora.
_SPACE = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# Punctuation and symbols by block, without joiners, direction marks, soft hyphens, variation selectors and the
# underscore, which belong to the word or emoji that contains them.
_PUNCTUATION = "".join(
    (
        r"!-/:-@\[-\^`{-~",  # ASCII
        "\xa1-\xa9\xab\xac\xae-\xb1\xb4\xb6-\xb8\xbb\xbf\xd7\xf7",  # Latin-1, without ª º ² ³ ¹ ¼ ½ ¾ µ
        "\u055a-\u055f\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4",  # Armenian, Hebrew
        "\u060c\u061b\u061f\u066a-\u066d\u06d4\u0964\u0965",  # Arabic, Devanagari
        "\u2010-\u2027\u2030-\u205e\u20a0-\u20cf\u2122",  # general punctuation, currencies, trade mark
        "\u2190-\u2bff\u2e00-\u2e7f",  # arrows, mathematics, shapes, dingbats, supplemental punctuation
        "\u3001-\u3003\u3008-\u3020\u3030\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65",  # East Asian
        "\uffe0-\uffe6\ufffc\ufffd\U0001f000-\U0001faff",  # full-width signs, replacement, pictographs
    )
)

_W = f"[^{_SPACE}{_PUNCTUATION}]"  # a character of a word: letters, digits, marks, underscore
_LETTER = f"[^{_SPACE}{_PUNCTUATION}0-9_]"
_NOT_SPACE = f"[^{_SPACE}]"
_END = f"(?!{_NOT_SPACE})"  # whitespace or the end of the text follows
_WORD_END = f"(?!-?{_W})"
_APOSTROPHE = "['\u2019]"

_CLITIC = f"(?:[sS]|[mM]|[dD]|[tT]|[rR][eE]|[vV][eE]|[lL][lL]){_WORD_END}"
# Punctuation inside a word: well-known, example.com, AT&T, O'Neill, and in numbers 1,000 10:30 3/4.
_JOINT = f"(?:[-.&]|{_APOSTROPHE}(?!{_CLITIC})|(?<=[0-9])[,:/](?=[0-9]))"
_WORD = f"{_W}+(?:{_JOINT}{_W}+)*"

# Does not end with punctuation, so that "(see http://a.b/c)." excludes its ").".
_LINK_BODY = f'[^{_SPACE}<>"]*[^{_SPACE}<>"\'.,;:!?)\\]}}\u00bb\u2019\u201d\u2026]'

_ABBREVIATIONS = (
    "[Mm]r|[Mm]rs|[Mm]s|[Dd]r|[Pp]rof|Messrs|Mmes|Rev|Hon|Gen|Col|Maj|Capt|Cmdr|Lt|Sgt|Cpl|Adm|Gov|Sen|Rep|Pres|Supt|"
    "Jr|Sr|St|Ste|Mt|Ft|Ave|Blvd|Rd|Inc|Ltd|Corp|Co|Cos|Bros|Assn|Dept|Univ|Intl|"
    "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|"
    "Ala|Ariz|Ark|Calif|Colo|Conn|Fla|Kan|Mass|Mich|Minn|Mont|Neb|Nev|Okla|Ore|Tenn|Tex|Wis|Wyo|"
    r"Ph\.D|B\.Sc|M\.Sc|vs|etc|cf|al|approx|viz"
)
_NUMBERED = "[Nn]os?|Art|[Ff]igs?|[Vv]ol|[Pp]p?|[Oo]p|[Ss]ec|[Cc]h|[Ee]q"

_EMOJI_MARK = "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_EMOJI = f"[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]{_EMOJI_MARK}*"

# The first alternative that matches wins. Where the order does not matter, fast and common alternatives come first.
_PENN_TREEBANK_WORDS = "|".join(
    (
        f"[{_PUNCTUATION}]{_END}",  # most punctuation of tokenized text
        # The first half of a contraction without an apostrophe: can|not, gon|na, wan|na, got|ta, gim|me, lem|me.
        f"(?:[cC][aA][nN](?=[nN][oO][tT]{_WORD_END})|(?:[gG][oO]|[wW][aA])[nN](?=[nN][aA]{_WORD_END})"
        f"|[gG][oO][tT](?=[tT][aA]{_WORD_END})|(?:[gG][iI]|[lL][eE])[mM](?=[mM][eE]{_WORD_END}))",
        f"[nN]{_APOSTROPHE}[tT]{_WORD_END}",  # n't
        f"[A-Za-z]+{_END}",  # most words
        f"(?:(?:[hH][tT][tT][pP][sS]?|[fF][tT][pP])://|[wW][wW][wW]\\.){_LINK_BODY}",
        # E-mail addresses. The bound avoids quadratic time on a long a+a+a+...
        f"[A-Za-z0-9_]+(?:[.+-][A-Za-z0-9_]+){{0,8}}@[A-Za-z0-9-]+(?:\\.[A-Za-z0-9-]+)+{_WORD_END}",
        f"(?:{_ABBREVIATIONS})\\.",
        f"(?:{_NUMBERED})\\.(?=[{_SPACE}]?[0-9])",
        f"{_LETTER}(?:\\.{_LETTER})+\\.(?!{_W})(?:-{_W}+)*",  # U.S. e.g. p.m. U.S.-led
        f"[A-HJ-Z]\\.(?=[{_SPACE}][A-Z\xc0-\xde])",  # initials: John F. Kennedy, but not "than I."
        f"{_W}+(?={_APOSTROPHE}?[nN]{_APOSTROPHE}[tT]{_WORD_END})",  # do|n't, would|n't
        f"(?:(?<![^{_SPACE}(])[-+\u2212][.]?|(?<![^{_SPACE}($\xa3\u20ac+\u2212-])[.])(?=[0-9]){_WORD}",  # -5 +1.5 .5
        _WORD,
        f"{_APOSTROPHE}{_CLITIC}",  # 's 'm 'd 't 're 've 'll
        f"{_APOSTROPHE}[tT](?=(?:[iI]|[wW][aA])[sS]{_WORD_END})",  # 't|is, 't|was
        f"{_APOSTROPHE}(?:[0-9][0-9]s?|[eE]m|[tT]il|[cC]ause|[bB]out|[nN]){_WORD_END}",  # '90s 'em 'til
        f"</?[A-Za-z][^{_SPACE}<>]*>",  # tags, among them <S> </S> <UNK>
        f"[@#][0-9_]*{_LETTER}{_W}*",  # @name, #topic
        "[\U0001f1e6-\U0001f1ff]{2}",  # flags
        f"{_EMOJI}(?:\u200d{_EMOJI})*",
        r"\.{2,}|-{2,}|={2,}|\*{2,}|~{2,}|#{2,}|``|''",
        f"{_NOT_SPACE}[\u0300-\u036f\u20d0-\u20ff\ufe00-\ufe0f]*",  # any other character with its combining marks
    )
)

# The lookahead halves the time: no alternative is tried at whitespace.
_PENN_TREEBANK = f"(?={_NOT_SPACE})(?:{_PENN_TREEBANK_WORDS})"

_EXPRESSIONS = {"ptb": _PENN_TREEBANK, "whitespace": f"{_NOT_SPACE}+"}
_COMPILED = {name: re.compile(expression) for name, expression in _EXPRESSIONS.items()}

PRE_TOKENIZATIONS = tuple(_EXPRESSIONS)


def check_pre_tokenization(pre_tokenization: str) -> str:
    """Return the name of a rule; raise a `ValueError` listing the rules if it is unknown."""
    if pre_tokenization not in PRE_TOKENIZATIONS:
        raise ValueError(
            f"pre_tokenization is {pre_tokenization!r}; expected 'ptb' (Penn-Treebank-like, for raw text) "
            "or 'whitespace' (for text that is tokenized already)"
        )
    return pre_tokenization


class CharacterReplacements:
    """Replacement of single characters in raw text.

    A single-character replacement is applied everywhere; a longer one only to words that consist of the character,
    because it would change character offsets.

    Args:
        spellings: character -> replacement.

    Raises:
        ValueError: a key that is not a single character, or a replacement that is empty or contains whitespace.
    """

    def __init__(self, spellings: Mapping[str, str]) -> None:
        for character, spelling in spellings.items():
            if len(character) != 1 or not spelling or any(map(str.isspace, character + spelling)):
                raise ValueError(
                    f"character_replacements has {character!r}: {spelling!r}; expected a single character and its "
                    "spelling, without whitespace"
                )
        self.spellings = dict(spellings)
        self._anywhere = str.maketrans({key: value for key, value in self.spellings.items() if len(value) == 1})
        self._alone = {key: value for key, value in self.spellings.items() if len(value) > 1}

    def in_text(self, text: str) -> str:
        """Apply the single-character replacements; the text keeps its length."""
        return text.translate(self._anywhere) if self._anywhere and not text.isascii() else text

    def of_words(self, words: list[str]) -> list[str]:
        """Apply the longer replacements to words that consist of the character."""
        return [self._alone.get(word, word) for word in words] if self._alone else words

    def backend_normalizer(self) -> Normalizer | None:
        """The same replacements as a normalizer of the `tokenizers` library; `None` without any."""
        rules: list[Normalizer] = [Replace(*pair) for pair in self.spellings.items()]
        return normalizers.Sequence(rules) if rules else None


def split_words(text: str, pre_tokenization: str) -> list[str]:
    """Split `text` into words by "ptb" or "whitespace". Faster than `word_spans`."""
    return text.split() if pre_tokenization == "whitespace" else _COMPILED[pre_tokenization].findall(text)


def word_spans(text: str, pre_tokenization: str) -> list[tuple[int, int]]:
    """(start, end) character offsets of the words of `text`."""
    return list(map(re.Match.span, _COMPILED[pre_tokenization].finditer(text)))


def backend_pre_tokenizer(pre_tokenization: str) -> PreTokenizer:
    """The same rule as a pre-tokenizer of the `tokenizers` library."""
    return Split(Regex(_EXPRESSIONS[pre_tokenization]), behavior="removed", invert=True)


def added_token_expression(tokens: Iterable[AddedToken]) -> re.Pattern[str] | None:
    """Regular expression that matches added tokens anywhere in a text, longest first; `None` without tokens.

    `single_word`, `lstrip` and `rstrip` have the same meaning as in the `tokenizers` library.
    """
    alternatives = []
    for token in sorted(tokens, key=lambda token: -len(token.content)):
        expression = re.escape(token.content)
        if token.single_word:
            expression = f"(?<!{_W}){expression}(?!{_W})"
        if token.lstrip:
            expression = f"[{_SPACE}]*{expression}"
        if token.rstrip:
            expression = f"{expression}[{_SPACE}]*"
        alternatives.append(expression)
    return re.compile("|".join(alternatives)) if alternatives else None
