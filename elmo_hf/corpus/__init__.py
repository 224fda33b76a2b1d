"""Lazy, resumable reading of sentences from text of any source, and vocabularies built from it."""
