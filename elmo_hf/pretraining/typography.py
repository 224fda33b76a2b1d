"""Typographic characters of raw text, and their other spellings in vocabularies."""

from collections.abc import Container

# Typographic characters, and their spellings in tokenized corpora, the most common first.
TYPOGRAPHY = {
    "\u201c": ('"', "``"),
    "\u201d": ('"', "''"),
    "\u201e": ('"', "``"),
    "\u2018": ("'", "`"),
    "\u2019": ("'",),
    "\u2013": ("--", "-"),
    "\u2014": ("--", "-"),
    "\u2026": ("...",),
}


def typography_of(vocabulary: Container[str]) -> dict[str, str]:
    """Map the typographic characters missing from a vocabulary to its own spelling.

    The result leaves out characters that are words of the vocabulary, and those without another spelling in it.
    """
    return {
        character: next(spelling for spelling in spellings if spelling in vocabulary)
        for character, spellings in TYPOGRAPHY.items()
        if character not in vocabulary and any(spelling in vocabulary for spelling in spellings)
    }
