"""Text of any source as sentences, lazily and resumably; vocabularies built from it."""
