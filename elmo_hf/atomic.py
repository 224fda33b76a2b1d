"""Files that appear whole or not at all: the one way in which this package writes a file outside a travelling room."""

from elmo_hf.tokenizer.complete_files import appearing

__all__ = ["appearing"]
