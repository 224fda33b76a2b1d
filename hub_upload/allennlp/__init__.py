"""AllenNLP's task models with an `Elmo` inside; bilm-tf's files, which `Elmo` reads too, are what it is exported to."""

from ..bilm_tf.options import needs_vocabulary
from ..common.format import Format
from ..common.tokenizer import make_tokenizer
from .plain import from_allennlp
from .reader import open_place
from .rules import fix_mixes, make_plan

FORMAT = Format(
    open=open_place,
    make_plan=make_plan,
    make_tokenizer=lambda source, config, notes: make_tokenizer(source, config, notes),
    plain=lambda source, read, epsilon: from_allennlp(set(source.tensors), read, source.options),
    complete=fix_mixes,
    needs_vocabulary=needs_vocabulary,
)
