"""Contextual vectors of whole corpora: `embed_corpus` for files, `BatchEmbedder` for libraries of column batches.

`plan` splits the sentences into shards, `shard_embedding` embeds them, `writers` writes their files, `output` keeps
track of the files, `processes` connects several processes, and `run` combines these.
"""

from .column_batches import BatchEmbedder
from .output import OutputConflictError
from .run import CorpusEmbedding, embed_corpus

__all__ = ["BatchEmbedder", "CorpusEmbedding", "OutputConflictError", "embed_corpus"]
