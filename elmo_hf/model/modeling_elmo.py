"""All model classes of ELMo, under the one name that a checkpoint's `auto_map` gives.

Each kind of model has a file of its own. They meet here because Transformers saves with a model the file of its class
and all that this file imports: a folder written by any class can be loaded as every other one.
"""

from .base_model import ElmoModel, ElmoModelOutput
from .causal_language_model import ElmoForCausalLM
from .generation_cache import ElmoCache
from .language_model import ElmoForPreTraining, ElmoForPreTrainingOutput
from .masked_language_model import ElmoForMaskedLM
from .multiple_choice import ElmoForMultipleChoice
from .pretrained import ElmoPreTrainedModel
from .question_answering import ElmoForQuestionAnswering
from .sequence_classification import ElmoForSequenceClassification
from .token_classification import ElmoForTokenClassification

# Of the package that these files come from.
CODE_VERSION = "0.1.0"

MODELS = (
    ElmoModel,
    ElmoForPreTraining,
    ElmoForCausalLM,
    ElmoForMaskedLM,
    ElmoForTokenClassification,
    ElmoForSequenceClassification,
    ElmoForMultipleChoice,
    ElmoForQuestionAnswering,
)

__all__ = [
    "ElmoCache",
    "ElmoForCausalLM",
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
]

for _model in MODELS:
    # "The file of its class" is where a class says that it comes from.
    _model.__module__ = __name__
