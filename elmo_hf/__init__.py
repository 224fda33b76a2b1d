"""ELMo (Peters et al. 2018) for Hugging Face Transformers: models, tokenizer, Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from .collators import ElmoDataCollatorForMultipleChoice
from .configuration_elmo import ElmoConfig
from .corpus_embedding import CorpusEmbedding, OutputConflictError, embed_corpus
from .embedding import embed, embed_iter
from .long_documents import embed_document
from .lstm_elmo import ElmoState
from .modeling_elmo import (
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
from .quantization import quantize
from .question_answering import Answer, answer_question, answers_from_spans, question_answering_features
from .scoring import Scores, score
from .tagging import tag, tag_iter
from .tokenization_elmo import ElmoTokenizer
from .vocabulary_elmo import read_vocabulary_lines, words_of_vocabulary_lines
from .word_vectors import WordVectorReport, WordVectors, read_word_vectors, start_from_word_vectors

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "CorpusEmbedding",
    "ElmoConfig",
    "ElmoDataCollatorForMultipleChoice",
    "ElmoForMaskedLM",
    "ElmoForMultipleChoice",
    "ElmoForPreTraining",
    "ElmoForPreTrainingOutput",
    "ElmoForQuestionAnswering",
    "ElmoForSequenceClassification",
    "ElmoForTokenClassification",
    "ElmoModel",
    "ElmoModelOutput",
    "ElmoPreTrainedModel",
    "ElmoState",
    "ElmoTokenizer",
    "OutputConflictError",
    "Scores",
    "WordVectorReport",
    "WordVectors",
    "__version__",
    "answer_question",
    "answers_from_spans",
    "embed",
    "embed_corpus",
    "embed_document",
    "embed_iter",
    "quantize",
    "question_answering_features",
    "read_vocabulary_lines",
    "read_word_vectors",
    "score",
    "start_from_word_vectors",
    "tag",
    "tag_iter",
    "words_of_vocabulary_lines",
]

AutoConfig.register("elmo", ElmoConfig)
AutoTokenizer.register(ElmoConfig, tokenizer_class=ElmoTokenizer)
AutoModel.register(ElmoConfig, ElmoModel)
AutoModelForMaskedLM.register(ElmoConfig, ElmoForMaskedLM)
AutoModelForPreTraining.register(ElmoConfig, ElmoForPreTraining)
AutoModelForMultipleChoice.register(ElmoConfig, ElmoForMultipleChoice)
AutoModelForQuestionAnswering.register(ElmoConfig, ElmoForQuestionAnswering)
AutoModelForSequenceClassification.register(ElmoConfig, ElmoForSequenceClassification)
AutoModelForTokenClassification.register(ElmoConfig, ElmoForTokenClassification)
