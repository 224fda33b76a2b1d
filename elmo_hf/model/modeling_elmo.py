"""All model classes of ELMo, as named by a checkpoint's `auto_map`.

Each class has its own file. They are gathered here because Transformers saves a model with the file of its class and
that file's imports: so a folder saved by any class can be loaded as any other.
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

# Version of the package that these files come from.
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
    # Transformers copies the file that `__module__` names.
    _model.__module__ = __name__
