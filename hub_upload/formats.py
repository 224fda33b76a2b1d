"""The table of formats."""

from . import allennlp, allennlp_task, bilm_tf, many_languages, transformer_lm
from .common.format import Export, Format

# Formats by `Source.layout`, in the order in which they are tried; the last one accepts all remaining folders.
FORMATS: dict[str, Format] = {
    "elmoformanylangs": many_languages.FORMAT,
    "allennlp-language-model": transformer_lm.FORMAT,
    "allennlp-task": allennlp_task.FORMAT,
    "allennlp": allennlp.FORMAT,
    "bilm-tf": bilm_tf.FORMAT,
}
# Exports in the order in which they are tried: a character dictionary takes precedence over the kind of encoder.
EXPORTS: tuple[Export, ...] = (many_languages.EXPORT, bilm_tf.EXPORT, transformer_lm.EXPORT)
