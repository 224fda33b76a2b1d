"""All model classes of ELMo, under the one name that a checkpoint's `auto_map` gives.

Each kind of model has a file of its own. They meet here because Transformers saves with a model the file of its class
and all that this file imports: a folder written by any class can be loaded as every other one.
"""

from .language_model_elmo import ElmoForPreTraining, ElmoForPreTrainingOutput
from .model_elmo import ElmoModel, ElmoModelOutput
from .pretrained_elmo import ElmoPreTrainedModel
from .token_classification_elmo import ElmoForTokenClassification

MODELS = (ElmoModel, ElmoForPreTraining, ElmoForTokenClassification)

__all__ = [
    "ElmoForPreTraining",
    "ElmoForPreTrainingOutput",
    "ElmoForTokenClassification",
    "ElmoModel",
    "ElmoModelOutput",
    "ElmoPreTrainedModel",
]

for _model in MODELS:
    # "The file of its class" is where a class says that it comes from.
    _model.__module__ = __name__
