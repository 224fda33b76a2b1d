"""ELMo (Peters et al. 2018) for Hugging Face Transformers: models, tokenizer, Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from .configuration_elmo import ElmoConfig
from .lstm_elmo import ElmoState
from .modeling_elmo import (
    ElmoForPreTraining,
    ElmoForPreTrainingOutput,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoModelOutput,
    ElmoPreTrainedModel,
)
from .tokenization_elmo import ElmoTokenizer

__version__ = "0.1.0"

__all__ = [
    "ElmoConfig",
    "ElmoForPreTraining",
    "ElmoForPreTrainingOutput",
    "ElmoForTokenClassification",
    "ElmoModel",
    "ElmoModelOutput",
    "ElmoPreTrainedModel",
    "ElmoState",
    "ElmoTokenizer",
    "__version__",
]

AutoConfig.register("elmo", ElmoConfig)
AutoTokenizer.register(ElmoConfig, tokenizer_class=ElmoTokenizer)
AutoModel.register(ElmoConfig, ElmoModel)
AutoModelForPreTraining.register(ElmoConfig, ElmoForPreTraining)
AutoModelForTokenClassification.register(ElmoConfig, ElmoForTokenClassification)
