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
from .embedding import embed, embed_iter
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
from .question_answering import Answer, answer_question, answers_from_spans, question_answering_features
from .scoring import Scores, score
from .tokenization_elmo import ElmoTokenizer
from .word_vectors import WordVectorReport, WordVectors, read_word_vectors, start_from_word_vectors

__version__ = "0.1.0"

__all__ = [
    "Answer",
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
    "Scores",
    "WordVectorReport",
    "WordVectors",
    "__version__",
    "answer_question",
    "answers_from_spans",
    "embed",
    "embed_iter",
    "question_answering_features",
    "read_word_vectors",
    "score",
    "start_from_word_vectors",
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
