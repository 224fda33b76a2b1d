"""Whole corpora to files of contextual vectors: `embed_corpus`.

`inputs` reads sentences, `plan` cuts them into shards, `writers` knows the files, `output` where they lie and what is
complete, `processes` the other processes; `run` does it.
"""

from .output import OutputConflictError
from .run import CorpusEmbedding, embed_corpus

__all__ = ["CorpusEmbedding", "OutputConflictError", "embed_corpus"]
