"""Typographic characters are spelled as the vocabulary does."""

from elmo_hf.pretraining.typography import typography_of


def test_replacements_follow_the_vocabulary() -> None:
    books = {'"', "'", "--", "-", "'s"}
    assert typography_of(books) == {
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u2018": "'",
        "\u2019": "'",
        "\u2013": "--",
        "\u2014": "--",
    }
    treebank = {"``", "''", "'", "`", "--", "...", "\u2014"}
    found = typography_of(treebank)
    assert (found["\u201c"], found["\u201d"], found["\u2026"]) == ("``", "''", "...") and "\u2014" not in found
    assert typography_of({"<S>", "</S>", "<UNK>"}) == {}
