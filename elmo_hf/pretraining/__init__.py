"""Pretraining of a biLM on one's own text: corpus, vocabulary, streams, losses, the loop and its checkpoints.

Needs the packages of `pip install "elmo-hf[train]"`.
"""

try:
    from elmo_hf.pretraining.checkpoint import CheckpointError
    from elmo_hf.pretraining.corpus import Corpus, open_corpus
    from elmo_hf.pretraining.loop import LossNotFiniteError, pretrain
    from elmo_hf.pretraining.objective import PretrainingLoss, StreamingObjective
    from elmo_hf.pretraining.optimiser import OptimiserSettings, build_optimiser, clip_gradients, reduce_row_gradients
    from elmo_hf.pretraining.perplexity import Perplexity, SentenceScore, perplexity, score_sentences
    from elmo_hf.pretraining.report import MetricsLog, RunSummary
    from elmo_hf.pretraining.sampled_softmax import LogUniformSampler, log_expected_count
    from elmo_hf.pretraining.settings import PretrainingSettings
    from elmo_hf.pretraining.streams import SentenceStreams, StreamBatch
    from elmo_hf.pretraining.vocabulary import Vocabulary, build_vocabulary
    from elmo_hf.pretraining.warm_start import WarmStart, adopt_vocabulary, warm_start
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("elmo_hf"):
        raise
    raise ImportError(f"elmo_hf.pretraining needs {error.name}: pip install 'elmo-hf[train]'") from error

__all__ = [
    "CheckpointError",
    "Corpus",
    "LogUniformSampler",
    "LossNotFiniteError",
    "MetricsLog",
    "OptimiserSettings",
    "Perplexity",
    "PretrainingLoss",
    "PretrainingSettings",
    "RunSummary",
    "SentenceScore",
    "SentenceStreams",
    "StreamBatch",
    "StreamingObjective",
    "Vocabulary",
    "WarmStart",
    "adopt_vocabulary",
    "build_optimiser",
    "build_vocabulary",
    "clip_gradients",
    "log_expected_count",
    "open_corpus",
    "perplexity",
    "pretrain",
    "reduce_row_gradients",
    "score_sentences",
    "warm_start",
]
