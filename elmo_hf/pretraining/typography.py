"""Typographic characters of raw text, and how a vocabulary spells them otherwise."""

from collections.abc import Container

# Characters that are typed and printed, and how tokenized corpora spell them, the commonest spelling first.
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
    """What to put in place of typographic characters that a vocabulary spells otherwise: those that it has no word for.

    A character that the vocabulary has, or has no other spelling of, is not in the result.
    """
    return {
        character: next(spelling for spelling in spellings if spelling in vocabulary)
        for character, spellings in TYPOGRAPHY.items()
        if character not in vocabulary and any(spelling in vocabulary for spelling in spellings)
    }
