"""Whole corpora to contextual vectors: `embed_corpus` for files, `BatchEmbedder` for libraries of column batches.

`inputs` reads sentences, `plan` cuts them into shards, `writers` knows the files, `output` where they lie and what is
complete, `processes` the other processes; `run` does it.
"""

from .column_batches import BatchEmbedder
from .output import OutputConflictError
from .run import CorpusEmbedding, embed_corpus

__all__ = ["BatchEmbedder", "CorpusEmbedding", "OutputConflictError", "embed_corpus"]
