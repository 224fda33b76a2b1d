"""The models: plain PyTorch. The files of this folder travel with a checkpoint as remote code; this one does not."""

# Before any model: models import the module of Transformers' Auto classes, whose hook (elmo_hf/registration.py) imports
# all models and would find one that is half imported.
import transformers.models.auto.modeling_auto  # noqa: F401
