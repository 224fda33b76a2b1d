"""bilm-tf's files: HDF5 weights with `options.json`, TensorFlow checkpoints, and NLPL archives that contain them."""

from ..common.format import Export, Format
from ..common.options import read_json
from ..common.tokenizer import make_tokenizer
from . import export
from .options import needs_vocabulary
from .plain import from_bilm
from .reader import open_place
from .rules import make_plan

FORMAT = Format(
    open=open_place,
    make_plan=make_plan,
    make_tokenizer=lambda source, config, notes: make_tokenizer(source, config, notes),
    plain=lambda source, read, epsilon: from_bilm(
        set(source.tensors), read, source.options, source.vocabulary.lines if source.vocabulary else None
    ),
    needs_vocabulary=needs_vocabulary,
    takes_word_vectors=True,
)
EXPORT = Export(
    serves=lambda folder, config: config.encoder_type == "lstm",
    check_config=export.check_config,
    write=export.write,
    files=export.FILES,
    marker=export.OPTIONS,
    is_marker=lambda path: "lstm" in read_json(path),
)
