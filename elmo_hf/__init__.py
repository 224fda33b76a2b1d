"""ELMo (Peters et al. 2018) for Hugging Face Transformers: models, tokenizer, Auto classes.

Public names are imported on first use, so `import elmo_hf` is fast. The models are registered with Transformers' Auto
classes as soon as both packages are imported, in either order.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from elmo_hf import registration, requirements
from elmo_hf.version import __version__

if TYPE_CHECKING:
    from elmo_hf.atomic import appearing_folder
    from elmo_hf.collators import ElmoDataCollatorForMultipleChoice
    from elmo_hf.corpus_embedding import BatchEmbedder, CorpusEmbedding, OutputConflictError, embed_corpus
    from elmo_hf.folders import DamageError, damage_named, reading_model
    from elmo_hf.inference.answers import Answer, answer_question, answers_from_spans, question_answering_features
    from elmo_hf.inference.classifying import classify_document
    from elmo_hf.inference.documents import embed_document
    from elmo_hf.inference.embedding import embed, embed_iter
    from elmo_hf.inference.loading import default_model
    from elmo_hf.inference.minimal_pairs import (
        MinimalPair,
        PairAccuracy,
        PairScore,
        pair_accuracies,
        read_minimal_pairs,
        score_minimal_pairs,
    )
    from elmo_hf.inference.neighbors import Usage, neighbors
    from elmo_hf.inference.quantization import quantize
    from elmo_hf.inference.scoring import Scores, score
    from elmo_hf.inference.senses import WordSenses, draw_senses, senses
    from elmo_hf.inference.tagging import tag, tag_document, tag_iter
    from elmo_hf.inference.translating import translate_iter
    from elmo_hf.model.configuration_elmo import ElmoConfig
    from elmo_hf.model.configuration_encoder_decoder import ElmoEncoderDecoderConfig
    from elmo_hf.model.encoder_decoder import ElmoEncoderDecoderModel
    from elmo_hf.model.modeling_elmo import (
        ElmoCache,
        ElmoForCausalLM,
        ElmoForMaskedLM,
        ElmoForMultipleChoice,
        ElmoForPreTraining,
        ElmoForPreTrainingOutput,
        ElmoForQuestionAnswering,
        ElmoForSequenceClassification,
        ElmoForTokenClassification,
        ElmoModel,
        ElmoModelOutput,
        ElmoPreTrainedModel,
    )
    from elmo_hf.model.state import ElmoState
    from elmo_hf.old_code import remove_old_code
    from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer
    from elmo_hf.tokenizer.vocabulary import read_vocabulary_lines, words_of_vocabulary_lines
    from elmo_hf.word_vectors import WordVectorReport, WordVectors, read_word_vectors, start_from_word_vectors

# Where each public name lives.
_HOMES = {
    "atomic": "appearing_folder",
    "collators": "ElmoDataCollatorForMultipleChoice",
    "corpus_embedding": "BatchEmbedder CorpusEmbedding OutputConflictError embed_corpus",
    "folders": "DamageError damage_named reading_model",
    "inference.answers": "Answer answer_question answers_from_spans question_answering_features",
    "inference.classifying": "classify_document",
    "inference.documents": "embed_document",
    "inference.embedding": "embed embed_iter",
    "inference.loading": "default_model",
    "inference.minimal_pairs": (
        "MinimalPair PairAccuracy PairScore pair_accuracies read_minimal_pairs score_minimal_pairs"
    ),
    "inference.neighbors": "Usage neighbors",
    "inference.quantization": "quantize",
    "inference.scoring": "Scores score",
    "inference.senses": "WordSenses draw_senses senses",
    "inference.tagging": "tag tag_document tag_iter",
    "inference.translating": "translate_iter",
    "model.configuration_elmo": "ElmoConfig",
    "model.configuration_encoder_decoder": "ElmoEncoderDecoderConfig",
    "model.encoder_decoder": "ElmoEncoderDecoderModel",
    "model.modeling_elmo": (
        "ElmoCache ElmoForCausalLM ElmoForMaskedLM ElmoForMultipleChoice ElmoForPreTraining "
        "ElmoForPreTrainingOutput ElmoForQuestionAnswering ElmoForSequenceClassification "
        "ElmoForTokenClassification ElmoModel ElmoModelOutput ElmoPreTrainedModel"
    ),
    "model.state": "ElmoState",
    "old_code": "remove_old_code",
    "tokenizer.tokenization_elmo": "ElmoTokenizer",
    "tokenizer.vocabulary": "read_vocabulary_lines words_of_vocabulary_lines",
    "word_vectors": "WordVectorReport WordVectors read_word_vectors start_from_word_vectors",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name].startswith(("model.modeling", "inference", "corpus_embedding")):
        registration.import_auto_classes()  # before any import lock of this package's modules is held
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


requirements.check()
registration.install()
