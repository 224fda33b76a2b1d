"""Pretraining of a biLM on your own text: corpus, vocabulary, streams, losses, the loop and its checkpoints.

Names load on first use. The loop and its reports need the packages of `pip install "elmo-hf[train]"`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elmo_hf.corpus.character_dictionary_building import build_character_dictionary
    from elmo_hf.corpus.sentences import Corpus, open_corpus
    from elmo_hf.corpus.tagged_text import TaggedSentence, pos_tags_of
    from elmo_hf.corpus.vocabulary_building import Vocabulary, build_vocabulary
    from elmo_hf.corpus.word_encoder import word_splitter
    from elmo_hf.inference.perplexity import SentenceScore, TextScore, perplexity, score_sentences
    from elmo_hf.kernels.precision import multiplies_bfloat16
    from elmo_hf.pretraining.checkpoint import CheckpointError
    from elmo_hf.pretraining.loop import LossNotFiniteError, pretrain
    from elmo_hf.pretraining.model_folder import save_model_of_run
    from elmo_hf.pretraining.objective import PretrainingLoss, StreamingObjective
    from elmo_hf.pretraining.optimizer import OptimizerSettings, build_optimizer, clip_gradients, reduce_row_gradients
    from elmo_hf.pretraining.report import MetricsLog, RunSummary
    from elmo_hf.pretraining.sampled_softmax import LogUniformSampler, log_expected_count
    from elmo_hf.pretraining.settings import PretrainingSettings
    from elmo_hf.pretraining.streams import SentenceStreams, StreamBatch
    from elmo_hf.pretraining.warm_starts import WarmStart, adopt_vocabulary, warm_start

# Modules of the public names.
_HOMES = {
    "elmo_hf.corpus.character_dictionary_building": ["build_character_dictionary"],
    "elmo_hf.corpus.sentences": ["Corpus", "open_corpus"],
    "elmo_hf.corpus.tagged_text": ["TaggedSentence", "pos_tags_of"],
    "elmo_hf.corpus.vocabulary_building": ["Vocabulary", "build_vocabulary"],
    "elmo_hf.corpus.word_encoder": ["word_splitter"],
    "elmo_hf.inference.perplexity": ["SentenceScore", "TextScore", "perplexity", "score_sentences"],
    "elmo_hf.kernels.precision": ["multiplies_bfloat16"],
    "elmo_hf.pretraining.checkpoint": ["CheckpointError"],
    "elmo_hf.pretraining.loop": ["LossNotFiniteError", "pretrain"],
    "elmo_hf.pretraining.model_folder": ["save_model_of_run"],
    "elmo_hf.pretraining.objective": ["PretrainingLoss", "StreamingObjective"],
    "elmo_hf.pretraining.optimizer": ["OptimizerSettings", "build_optimizer", "clip_gradients", "reduce_row_gradients"],
    "elmo_hf.pretraining.report": ["MetricsLog", "RunSummary"],
    "elmo_hf.pretraining.sampled_softmax": ["LogUniformSampler", "log_expected_count"],
    "elmo_hf.pretraining.settings": ["PretrainingSettings"],
    "elmo_hf.pretraining.streams": ["SentenceStreams", "StreamBatch"],
    "elmo_hf.pretraining.warm_starts": ["WarmStart", "adopt_vocabulary", "warm_start"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
# Former names.
_FORMER = {"OptimiserSettings": "OptimizerSettings", "build_optimiser": "build_optimizer"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    name = _FORMER.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_HOME[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("elmo_hf"):
            raise
        raise ImportError(f"{__name__}.{name} needs {error.name}: pip install 'elmo-hf[train]'") from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
