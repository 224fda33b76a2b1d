"""Typing errors for test sets: what an open vocabulary of characters is worth.

    python benchmarks/robustness.py test.conll noisy.conll --kind swapped --share 0.3

changes words of a file and nothing else: of a CoNLL file the first column, of a TSV file the words of one column
(`--column`), of any other file the words of each line. A word of three letters or more is changed with the given
chance, and in one place; others stay. The same file, kind, share and seed give the same errors.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Neighbors of the same row and of the rows above and below, on an English keyboard.
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def neighbors(letter: str) -> str:
    """The letters whose keys touch that of a lower-case letter; none of other characters."""
    for number, row in enumerate(ROWS):
        place = row.find(letter)
        if place < 0:
            continue
        beside = [row[each] for each in (place - 1, place + 1) if 0 <= each < len(row)]
        # Each row stands half a key to the right of the one above.
        for other, first in ((number - 1, place), (number + 1, place - 1)):
            if 0 <= other < len(ROWS):
                beside += [ROWS[other][each] for each in (first, first + 1) if 0 <= each < len(ROWS[other])]
        return "".join(beside)
    return ""


def swapped(word: str, draw: random.Random) -> str:
    """Two letters beside each other that differ, exchanged."""
    places = [place for place in range(len(word) - 1) if word[place] != word[place + 1]]
    if not places:
        return word
    place = draw.choice(places)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def dropped(word: str, draw: random.Random) -> str:
    """One letter less."""
    place = draw.randrange(len(word))
    return word[:place] + word[place + 1 :]


def doubled(word: str, draw: random.Random) -> str:
    """One letter twice."""
    place = draw.randrange(len(word))
    return word[: place + 1] + word[place:]


def neighboring(word: str, draw: random.Random) -> str:
    """One letter replaced by one whose key is beside its own, in its case."""
    places = [place for place, letter in enumerate(word) if neighbors(letter.lower())]
    if not places:
        return word
    place = draw.choice(places)
    letter = draw.choice(neighbors(word[place].lower()))
    return word[:place] + (letter.upper() if word[place].isupper() else letter) + word[place + 1 :]


def upper(word: str, draw: random.Random) -> str:
    """All letters capitals."""
    return word.upper()


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "swapped": swapped,
    "dropped": dropped,
    "doubled": doubled,
    "neighboring": neighboring,
    "upper": upper,
}


def with_typos(words: Iterable[str], kind: str, share: float, draw: random.Random) -> Iterator[str]:
    """The words, some of them with an error of a kind.

    Args:
        words: any; those of fewer than three characters, or not of letters alone, stay as they are.
        kind: of `KINDS`.
        share: the chance of each other word to be changed.
        draw: where chance is from.

    Raises:
        ValueError: another kind, or a share outside of 0 to 1.
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
        kind, share: as of `with_typos`.
        seed: of the errors.
        column: of the words, from 0, where lines have columns.
        separator: between columns, by default a tab where a file's name ends in .tsv or .conll; the words of a column
            are separated by spaces.
    """
    draw = random.Random(f"{seed} {kind}")
    if separator is None and source.suffix in (".tsv", ".conll"):
        separator = "\t"
    lines = []
    for line in source.read_text(encoding="utf-8").split("\n"):
        cells = line.split(separator) if separator else [line]
        if line.strip():
            cells[column] = " ".join(with_typos(cells[column].split(" "), kind, share, draw))
        lines.append((separator or "").join(cells))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--share", type=float, default=0.3, help="of the words (default 0.3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--column", type=int, default=0, help="of the words (default 0)")
    args = parser.parse_args()
    write_typos(args.source, args.target, args.kind, args.share, args.seed, args.column)


if __name__ == "__main__":
    main()
