"""AllenNLP's task models that contain an `Elmo`. They are exported as bilm-tf's files, which `Elmo` reads too."""

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..bilm_tf.options import needs_vocabulary
from ..common.format import Format
from ..common.source import Source
from ..common.tokenizer import make_tokenizer
from .plain import from_allennlp
from .reader import ElmoSource, open_place
from .rules import fix_mixes, make_plan


def _make_tokenizer(source: Source, config: ElmoConfig, notes: list[str]) -> ElmoTokenizer:
    assert isinstance(source, ElmoSource)
    return make_tokenizer(source, config, notes, tokens_to_add=source.tokens_to_add)


FORMAT = Format(
    open=open_place,
    make_plan=make_plan,
    make_tokenizer=_make_tokenizer,
    plain=lambda source, read, epsilon: from_allennlp(set(source.tensors), read, source.options),
    complete=fix_mixes,
    needs_vocabulary=needs_vocabulary,
)
