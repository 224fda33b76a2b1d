"""Local `evaluate` modules: metrics that need no download (extra `train`)."""

from .seqeval import Seqeval

__all__ = ["Seqeval"]
