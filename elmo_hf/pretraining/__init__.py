"""Pretraining of a biLM on one's own text: corpus, vocabulary, streams, losses, the loop and its checkpoints.

The loop and its reports need the packages of `pip install "elmo-hf[train]"`, and are imported when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from elmo_hf.corpus.character_dictionary_building import build_character_dictionary
from elmo_hf.corpus.sentences import Corpus, open_corpus
from elmo_hf.corpus.tagged_text import TaggedSentence, pos_tags_of
from elmo_hf.corpus.vocabulary_building import Vocabulary, build_vocabulary
from elmo_hf.corpus.word_encoder import word_splitter
from elmo_hf.inference.perplexity import SentenceScore, TextScore, perplexity, score_sentences
from elmo_hf.kernels.precision import multiplies_bfloat16

from .objective import PretrainingLoss, StreamingObjective
from .optimiser import OptimiserSettings, build_optimiser, clip_gradients, reduce_row_gradients
from .sampled_softmax import LogUniformSampler, log_expected_count
from .settings import PretrainingSettings
from .streams import SentenceStreams, StreamBatch
from .warm_start import WarmStart, adopt_vocabulary, warm_start

if TYPE_CHECKING:
    from .checkpoint import CheckpointError
    from .loop import LossNotFiniteError, pretrain
    from .report import MetricsLog, RunSummary

# What is imported when it is asked for, and where it is.
LATER = {
    "CheckpointError": "checkpoint",
    "LossNotFiniteError": "loop",
    "MetricsLog": "report",
    "RunSummary": "report",
    "pretrain": "loop",
}

__all__ = [
    "CheckpointError",
    "Corpus",
    "LogUniformSampler",
    "LossNotFiniteError",
    "MetricsLog",
    "OptimiserSettings",
    "PretrainingLoss",
    "PretrainingSettings",
    "RunSummary",
    "SentenceScore",
    "SentenceStreams",
    "StreamBatch",
    "StreamingObjective",
    "TaggedSentence",
    "TextScore",
    "Vocabulary",
    "WarmStart",
    "adopt_vocabulary",
    "build_character_dictionary",
    "build_optimiser",
    "build_vocabulary",
    "clip_gradients",
    "log_expected_count",
    "multiplies_bfloat16",
    "open_corpus",
    "perplexity",
    "pos_tags_of",
    "pretrain",
    "reduce_row_gradients",
    "score_sentences",
    "warm_start",
    "word_splitter",
]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{LATER[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("elmo_hf"):
            raise
        raise ImportError(f"{__name__}.{name} needs {error.name}: pip install 'elmo-hf[train]'") from error
    return getattr(module, name)
