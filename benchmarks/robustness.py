"""Add typing errors to test sets, to measure the benefit of an open character vocabulary.

    python benchmarks/robustness.py test.conll noisy.conll --kind swapped --share 0.3

This changes only words: the first column of a CoNLL file, one column (`--column`) of a TSV file, or all words of other
files. A word of three letters or more gets one error with the given probability; other words are unchanged. The same
file, kind, share and seed give the same errors.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Rows of an English keyboard.
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def neighbors(letter: str) -> str:
    """Letters on keys adjacent to that of a lower-case letter; empty for other characters."""
    for number, row in enumerate(ROWS):
        place = row.find(letter)
        if place < 0:
            continue
        beside = [row[each] for each in (place - 1, place + 1) if 0 <= each < len(row)]
        # Each row is shifted half a key to the right of the one above.
        for other, first in ((number - 1, place), (number + 1, place - 1)):
            if 0 <= other < len(ROWS):
                beside += [ROWS[other][each] for each in (first, first + 1) if 0 <= each < len(ROWS[other])]
        return "".join(beside)
    return ""


def swapped(word: str, draw: random.Random) -> str:
    """Swap two different adjacent letters."""
    places = [place for place in range(len(word) - 1) if word[place] != word[place + 1]]
    if not places:
        return word
    place = draw.choice(places)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def dropped(word: str, draw: random.Random) -> str:
    """Drop one letter."""
    place = draw.randrange(len(word))
    return word[:place] + word[place + 1 :]


def doubled(word: str, draw: random.Random) -> str:
    """Double one letter."""
    place = draw.randrange(len(word))
    return word[: place + 1] + word[place:]


def neighboring(word: str, draw: random.Random) -> str:
    """Replace one letter by that of an adjacent key, in the same case."""
    places = [place for place, letter in enumerate(word) if neighbors(letter.lower())]
    if not places:
        return word
    place = draw.choice(places)
    letter = draw.choice(neighbors(word[place].lower()))
    return word[:place] + (letter.upper() if word[place].isupper() else letter) + word[place + 1 :]


def upper(word: str, draw: random.Random) -> str:
    """Convert all letters to upper case."""
    return word.upper()


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "swapped": swapped,
    "dropped": dropped,
    "doubled": doubled,
    "neighboring": neighboring,
    "upper": upper,
}


def with_typos(words: Iterable[str], kind: str, share: float, draw: random.Random) -> Iterator[str]:
    """Yield the words, some of them with an error.

    Args:
        words: words; those of fewer than three characters, or with characters other than letters, are unchanged.
        kind: one of `KINDS`.
        share: probability of an error in each of the other words.
        draw: random number generator.

    Raises:
        ValueError: an unknown kind, or a share outside of 0 to 1.
    """
    if kind not in KINDS or not 0 <= share <= 1:
        raise ValueError(f"kind={kind!r}, share={share}: expected one of {', '.join(KINDS)}, and a share of 0 to 1")
    for word in words:
        is_hit = draw.random() < share
        yield KINDS[kind](word, draw) if is_hit and len(word) > 2 and word.isalpha() else word


def write_typos(
    source: Path, target: Path, kind: str, share: float, seed: int = 0, column: int = 0, separator: str | None = None
) -> None:
    """Write a file with errors.

    Args:
        source, target: the files.
        kind, share: as in `with_typos`.
        seed: random seed.
        column: column of the words, from 0, if lines have columns.
        separator: separator of columns, by default a tab for names ending in .tsv, .conll or .conllu. Words within a
            column are separated by spaces. Comments of CoNLL-U stay as they are.
    """
    draw = random.Random(f"{seed} {kind}")
    if separator is None and source.suffix in (".tsv", ".conll", ".conllu"):
        separator = "\t"
    lines = []
    for line in source.read_text(encoding="utf-8").split("\n"):
        cells = line.split(separator) if separator else [line]
        if line.strip() and not (source.suffix == ".conllu" and line.startswith("#")):
            cells[column] = " ".join(with_typos(cells[column].split(" "), kind, share, draw))
        lines.append((separator or "").join(cells))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--share", type=float, default=0.3, help="share of changed words (default 0.3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--column", type=int, default=0, help="column of the words (default 0)")
    args = parser.parse_args()
    write_typos(args.source, args.target, args.kind, args.share, args.seed, args.column)


if __name__ == "__main__":
    main()
