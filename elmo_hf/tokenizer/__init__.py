"""The tokenizer. The files of this folder travel with a checkpoint as remote code."""
