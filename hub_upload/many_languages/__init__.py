"""ELMoForManyLangs: directories of two state dicts and two dictionaries."""

from ..common.format import Export, Format
from ..common.plain import PlainElmo, Read
from ..common.source import Source
from . import export
from .plain import from_elmoformanylangs
from .reader import LanguageSource, open_place
from .rules import make_plan, tokenizer_of


def _plain(source: Source, read: Read, epsilon: float) -> PlainElmo:
    assert isinstance(source, LanguageSource)
    files = (source.dictionaries.characters, source.dictionaries.words)
    characters, words = (None if file is None else file.lines for file in files)
    return from_elmoformanylangs(read, source.options, characters, words)


FORMAT = Format(
    open=open_place,
    make_plan=make_plan,
    make_tokenizer=tokenizer_of,
    plain=_plain,
    needs_vocabulary=lambda source: "an ELMoForManyLangs model reads nothing without its dictionaries",
)
EXPORT = Export(
    serves=export.has_dictionary,
    check_config=export.check_config,
    write=export.write,
    files=export.FILES,
    marker=export.CONFIG,
    is_marker=export.is_written,
)
