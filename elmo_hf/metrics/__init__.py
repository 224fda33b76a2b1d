"""Local `evaluate` modules: metrics that need no download (extra `train`)."""

from .bleu import Bleu
from .classification import Classification
from .perplexity import Perplexity
from .rouge import Rouge
from .seqeval import Seqeval
from .spans import AnswerSpans

__all__ = ["AnswerSpans", "Bleu", "Classification", "Perplexity", "Rouge", "Seqeval"]
