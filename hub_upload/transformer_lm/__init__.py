"""Transformer ELMo: AllenNLP's language models with a Transformer over character-based words."""

from ..common.format import Export, Format
from . import export
from .plain import from_language_model
from .reader import is_archive_of_language_model, open_place
from .rules import make_plan, tokenizer_of

FORMAT = Format(
    open=open_place,
    make_plan=make_plan,
    make_tokenizer=tokenizer_of,
    plain=lambda source, read, epsilon: from_language_model(set(source.tensors), read, source.options, epsilon),
    chooses_epsilon=True,
)
EXPORT = Export(
    serves=lambda folder, config: config.encoder_type == "transformer",
    check_config=export.check_config,
    write=export.write,
    files=(export.ARCHIVE,),
    marker=export.ARCHIVE,
    is_marker=is_archive_of_language_model,
    softmax_layouts=True,
)
