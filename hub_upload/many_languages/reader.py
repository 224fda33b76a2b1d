"""Reader of ELMoForManyLangs directories: two state dicts, two dictionaries, and an often missing architecture file.

Source: ELMoForManyLangs `elmoformanylangs/elmo.py` (`Embedder`), `frontend.py`, `modules/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.content import read_text
from ..common.errors import CheckpointError
from ..common.options import read_json
from ..common.source import Place, Source, StoredTensor
from ..common.torch_file import read_torch_file

CONFIG, CHARACTERS, WORDS, CLASSIFIER = "config.json", "char.dic", "word.dic", "classifier.pkl"
# Prefix of names up to the first dot, and the file.
STATE_DICTS = {"token_embedder": "token_embedder.pkl", "encoder": "encoder.pkl"}
# Names of a softmax with one row per word in `classifier.pkl`, by `classifier.name` of the architecture file. For the
# first, the program also creates an `oov_column`, which it never uses.
SOFTMAX_FORMS = {
    "sampled_softmax": ("column_emb.weight", "column_bias.weight"),
    "softmax": ("hidden2tag.weight", "hidden2tag.bias"),
}
# The softmax is trained on layer 1, which is the top layer of a model with this number of layers.
TRAINED_LAYERS = 2
# All whitespace characters are read as this one, because lines are stripped.
IDEOGRAPHIC_SPACE = "\u3000"

# Architecture of all published models, shipped in the original package as `configs/cnn_50_100_512_4096_sample.json`.
BUILT_IN = "cnn_50_100_512_4096_sample.json"
BUILT_IN_ARCHITECTURE: dict[str, Any] = {
    "encoder": {"name": "elmo", "projection_dim": 512, "cell_clip": 3, "proj_clip": 3, "dim": 4096, "n_layers": 2},
    "token_embedder": {
        "name": "cnn",
        "activation": "relu",
        "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
        "n_highway": 2,
        "word_dim": 100,
        "char_dim": 50,
        "max_characters_per_token": 50,
    },
    "classifier": {"name": "sampled_softmax", "n_samples": 8192},
    "dropout": 0.1,
}


@dataclass(frozen=True)
class Dictionary:
    """A file of lines `symbol<TAB>id`, read once on first use.

    Attributes:
        file: Its path.
    """

    file: Path

    @cached_property
    def lines(self) -> list[str]:
        """Unchanged lines.

        Raises:
            CheckpointError: not UTF-8; the message names the line.
        """
        text = read_text(self.file, "lines of a symbol, a tab and its id", "utf-8-sig")
        # str.splitlines() would also split at some symbols.
        return text.removesuffix("\n").split("\n")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of every symbol, in the order of ids.

        A line without symbol after stripping means U+3000. If there are several, from different whitespace characters,
        the last one counts, as in the original.

        Raises:
            CheckpointError: a malformed line, or a repeated symbol or id; the message names the lines.
        """
        ids: dict[str, int] = {}
        seen: dict[str | int, int] = {}
        for number, line in enumerate(self.lines, 1):
            *symbols, last = line.strip().split("\t")
            where = f"{self.file}, line {number}"
            if len(symbols) > 1 or not (last.isascii() and last.isdecimal()):
                raise CheckpointError(f"{where}: {line!r}; expected a symbol, a tab and its id, an integer from 0 on")
            symbol = symbols[0] if symbols else IDEOGRAPHIC_SPACE
            # Lines without symbol differ in their whitespace.
            written = symbol if symbols else line.rpartition("\t")[0]
            for key, kind in ((written, "symbol"), (int(last), "id")):
                if seen.setdefault(key, number) != number:
                    raise CheckpointError(
                        f"{where}: the {kind} {key!r} is listed already in line {seen[key]}; ids are rows of weights, "
                        "so each may occur only once. Give the dictionary that the model was trained with"
                    )
            ids[symbol] = int(last)
        return dict(sorted(ids.items(), key=lambda item: item[1]))

    def check(self, rows: int, required: Sequence[str], part: str) -> None:
        """Raise `CheckpointError` for an id beyond `rows`, or if a symbol of `required` is missing."""
        missing = [symbol for symbol in required if symbol not in self.ids]
        if missing:
            raise CheckpointError(f"{self.file}: no line for {', '.join(missing)}, which the program looks up")
        symbol, largest = max(self.ids.items(), key=lambda item: item[1])
        if largest >= rows:
            raise CheckpointError(
                f"{self.file}: {symbol!r} has the id {largest}, but the {part} has {rows} rows, from 0 on; give the "
                "dictionary that the model was trained with"
            )


@dataclass(frozen=True)
class Dictionaries:
    """The dictionaries of a model; `None` for a missing part."""

    characters: Dictionary | None = None
    words: Dictionary | None = None


@dataclass(frozen=True)
class LanguageSource(Source):
    """An open directory, with its dictionaries."""

    dictionaries: Dictionaries = Dictionaries()


def is_model_folder(folder: Path) -> bool:
    """True if a folder holds an ELMoForManyLangs model, or parts of one."""
    return any((folder / name).is_file() for name in STATE_DICTS.values())


def open_place(place: Place) -> LanguageSource | None:
    """Open a model directory, or one of its `*.pkl` files; `None` for other places.

    Raises:
        CheckpointError: files are missing, damaged, or of a variant that is not supported.
    """
    folder, is_file = place.folder, place.path.suffix == ".pkl" and place.path.is_file()
    if not is_model_folder(folder) or not (is_file or (place.path.is_dir() and place.weights is None)):
        return None
    place.refuse(folder, "an ELMoForManyLangs model has its own files", "vocabulary", "softmax")
    notes: list[str] = []
    architecture, where = _find_architecture(folder, place.options, notes)
    _refuse_variants(architecture, where)
    tensors: dict[str, StoredTensor] = {}
    for part, name in STATE_DICTS.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; an ELMoForManyLangs model is {' and '.join(STATE_DICTS.values())}"
            )
        for key, tensor in read_torch_file(path).items():
            tensors[f"{part}.{key}"] = StoredTensor.of(path, f"{part}.{key}", tensor)
    embedder = architecture.get("token_embedder")
    sizes = embedder if isinstance(embedder, dict) else {}
    layers = architecture.get("encoder", {}).get("n_layers")
    softmax = _softmax(folder, layers, notes) if (folder / CLASSIFIER).is_file() else {}
    return LanguageSource(
        description=f"ELMoForManyLangs model: {', '.join(STATE_DICTS.values())}, {Path(where).name}",
        layout="elmoformanylangs",
        file=str(folder),
        tensors=tensors | softmax,
        options=architecture,
        options_file=where,
        dictionaries=Dictionaries(
            _dictionary(folder / CHARACTERS, bool(sizes.get("char_dim"))),
            # Words may also belong to the softmax, if the model itself reads only characters.
            _dictionary(folder / WORDS, bool(sizes.get("word_dim") or softmax)),
        ),
        notes=notes,
    )


def _softmax(folder: Path, layers: Any, notes: list[str]) -> dict[str, StoredTensor]:
    """Read `softmax/W` and `softmax/b` from the file that the training program writes with `--save_classify_layer`.

    Returns nothing, with a note, if it is not a softmax with one row per word on the top layer.
    """
    path = folder / CLASSIFIER
    state = read_torch_file(path)
    form = next((names for names in SOFTMAX_FORMS.values() if all(name in state for name in names)), None)
    if form is None:
        kind = "its rows are made of the words' characters (cnn_softmax)" if "corr.weight" in state else "unknown form"
        notes.append(f"{CLASSIFIER} was left out: {kind}, and no softmax with a row per word")
        return {}
    if layers != TRAINED_LAYERS:
        notes.append(
            f"{CLASSIFIER} was left out: the program trains its softmax on the second of {layers} layers, whichever is "
            "the top"
        )
        return {}
    if not (folder / WORDS).is_file():
        notes.append(f"{CLASSIFIER} was left out: its rows are the words of {WORDS}, which is missing")
        return {}
    weight, bias = (state[name] for name in form)
    if bias.dim() == 2 and bias.shape[1] == 1:
        bias = bias[:, 0]
    if "column_emb.weight" in form:
        notes.append(
            f"the softmax of {CLASSIFIER} has a class for every word of {WORDS}; its program evaluates it over the "
            "words that it has seen in training"
        )
    return {name: StoredTensor.of(path, name, value) for name, value in (("softmax/W", weight), ("softmax/b", bias))}


def _dictionary(path: Path, is_read: bool) -> Dictionary | None:
    if not is_read:
        return None
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, and the model's architecture needs it; fetch the model again")
    return Dictionary(path)


def _find_architecture(folder: Path, options_file: Path | None, notes: list[str]) -> tuple[dict[str, Any], str]:
    """Content and name of the architecture file, searched as in the original.

    A configuration is untrusted: only the last component of its path is used, and only in its own folder.
    """
    if options_file is not None:
        return read_json(options_file), str(options_file)
    named = read_json(folder / CONFIG).get("config_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"{folder / CONFIG}: config_path is {named!r}, expected the name of the architecture file; give the file "
            "with --options"
        )
    base = named.replace("\\", "/").rsplit("/", 1)[-1]
    if base != CONFIG and base not in ("", ".", "..") and (folder / base).is_file():
        return read_json(folder / base), str(folder / base)
    if base != BUILT_IN:
        raise CheckpointError(
            f"{folder}: the architecture file {base!r} that {CONFIG} names is not in it (config_path {named!r}); give "
            "it with --options"
        )
    notes.append(
        f"{base}, the architecture file that {CONFIG} names, is not in the folder: the values of the "
        "original package are used"
    )
    return BUILT_IN_ARCHITECTURE, f"built-in {base}"


def _refuse_variants(architecture: dict[str, Any], where: str) -> None:
    for part, supported, others in (
        ("encoder", "elmo", {"lstm": "its layers let each direction see the other one's words, unlike ELMo's"}),
        ("token_embedder", "cnn", {"lstm": "the program that trains it cannot run it with characters"}),
    ):
        settings = architecture.get(part)
        name = settings.get("name") if isinstance(settings, dict) else None
        if name != supported:
            reason = others.get(str(name).lower())
            raise CheckpointError(
                f"{where}: {part}.name is {name!r}, expected {supported!r}"
                + (f"; the {name} variant is not supported: {reason}" if reason else "")
            )
