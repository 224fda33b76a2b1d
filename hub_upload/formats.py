"""The table of formats: which room serves which layout."""

from . import allennlp, allennlp_task, bilm_tf, many_languages, transformer_lm
from .common.format import Export, Format

# By `Source.layout`, in the order in which a place is tried: the last one takes every folder that is left.
FORMATS: dict[str, Format] = {
    "elmoformanylangs": many_languages.FORMAT,
    "allennlp-language-model": transformer_lm.FORMAT,
    "allennlp-task": allennlp_task.FORMAT,
    "allennlp": allennlp.FORMAT,
    "bilm-tf": bilm_tf.FORMAT,
}
# In the order in which a model is offered: a dictionary of characters decides before the kind of the encoder.
EXPORTS: tuple[Export, ...] = (many_languages.EXPORT, bilm_tf.EXPORT, transformer_lm.EXPORT)
