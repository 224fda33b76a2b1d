"""Reader of AllenNLP task models that contain an `Elmo`: `model.tar.gz`, or the folder of a training run.

The module is found in the state dict by the names of its parameters, at any depth. Its options come from the archive
(`fta/`, inlined, or a file in its folder), or else from the shapes.

Source: AllenNLP `modules/elmo.py`, `modules/elmo_lstm.py`, `modules/scalar_mix.py`, `models/archival.py`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os.path import abspath, isfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.content import read_content
from ..common.errors import CheckpointError, listing
from ..common.options import DEFAULT_CHARACTERS_PER_WORD, NUM_CHARACTERS, parse_object, read_json
from ..common.source import Place, Source, StoredTensor
from ..common.vocabulary import Vocabulary

WEIGHTS = ("weights.th", "best.th", "model.th")
_EMBEDDER = "_elmo_lstm._token_embedder."
_TABLE = _EMBEDDER + "_char_embedding_weights"
# Vectors of a cached vocabulary, which can be recomputed by the character CNN.
CACHED_WORDS = "_elmo_lstm._word_embedding.weight"
# Clips of every published model; used, and reported, if no options are found.
DEFAULT_CLIP = 3.0
FLOAT32_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class MixOptions:
    """Settings of an AllenNLP `Elmo` beyond its language model.

    Attributes:
        layer_norm: `do_layer_norm`.
        dropout: Dropout on the representations.
        fixed: `scalar_mix_parameters`, or `None` for learned mixes.
    """

    layer_norm: bool = False
    dropout: float = 0.5
    fixed: list[float] | None = None


@dataclass(frozen=True)
class ElmoSource(Source):
    """An open archive.

    Attributes:
        mixes: Settings of its `Elmo`.
        prefix: Prefix of the `Elmo`'s tensor names in the state dict.
        others: Number of other tensors.
        is_projected: True if the task model projects ELMo's vectors.
        tokens_to_add: Words with a character id of their own.
    """

    mixes: MixOptions = MixOptions()
    prefix: str = ""
    others: int = 0
    is_projected: bool = False
    tokens_to_add: Mapping[str, int] = field(default_factory=dict)

    def holds(self, name: str) -> bool:
        """True if a tensor of the state dict belongs to the `Elmo`."""
        return _is_of_elmo(name, self.prefix)


def wanted_member(name: str) -> bool:
    """True if a member of `model.tar.gz` is needed."""
    base = name.rsplit("/", 1)[-1]
    return (
        base in (*WEIGHTS, "config.json", "meta.json")
        or ("fta/" in name and base.endswith("options_file"))
        or ("vocabulary/" in name and base.endswith(".txt"))
    )


def weights_of_folder(folder: Path) -> Path | None:
    """Path of the state dict in an unpacked archive or training run; `None` for other folders."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def find_weights(place: Place) -> Path | None:
    """Path of AllenNLP's state dict in a folder or file; `None` if there is none."""
    if place.path.is_dir() and place.weights is None:
        return weights_of_folder(place.path)
    path = place.weights if place.path.is_dir() and place.weights is not None else place.path
    return path if path.suffix == ".th" and path.is_file() else None


def refuse_other_models(names: Mapping[str, object], file: str) -> None:
    """Raise a `CheckpointError` that describes a state dict without an `Elmo`."""
    inside = sorted({name[: name.index("_contextualizer.")] for name in names if "_contextualizer." in name})
    if inside:
        raise CheckpointError(
            f"{file}: a task model with a language model inside, at {listing(inside)}: give the language model's own "
            "archive, which the archive_file of the task's config.json names"
        )
    raise CheckpointError(
        f"{file}: no `Elmo` in this state dict: no name ends in {_TABLE!r} among {listing(sorted(names)) or 'no names'}"
    )


def find_prefix(state: Mapping[str, Tensor], file: str) -> str:
    """Find the name prefix of the only `Elmo` module.

    Raises:
        CheckpointError: there is none, or several.
    """
    prefixes = sorted(name.removesuffix(_TABLE) for name in state if name.endswith(_TABLE))
    # The module may be registered twice under two names, with the same tensors.
    distinct = {state[prefix + _TABLE].data_ptr(): prefix for prefix in reversed(prefixes)}
    if not prefixes:
        refuse_other_models(state, file)
    if len(distinct) > 1:
        raise CheckpointError(
            f"{file}: holds several Elmo modules, at {listing(prefixes)}; save the state dict of the one you want"
        )
    return next(iter(distinct.values()))


def read_archive_config(path: Path) -> dict[str, Any]:
    """Read an archive's `config.json`, which may be Jsonnet with comments and trailing commas."""
    try:
        return read_json(path)
    except CheckpointError:
        text = read_content(path).decode("utf-8", "replace")
    # Unclosed strings extend to the end, so that nothing is scanned twice.
    quoted = r'("(?:\\.|[^"\\])*(?:"|\\?\Z))'
    for unneeded in (r"//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z)", r",(?=\s*[}\]])"):
        text = re.sub(f"{quoted}|{unneeded}", lambda match: match.group(1) or "", text, flags=re.DOTALL)
    try:
        return parse_object(text, path)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{path}: neither JSON nor simple Jsonnet ({error}): only comments and trailing commas are understood. "
            "Evaluate it (jsonnet FILE) and give the result"
        ) from None


def _elmo_settings(config: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dotted path and settings of every `Elmo` in a configuration."""
    if isinstance(config, dict):
        if "options_file" in config or config.get("type") == "elmo_token_embedder":
            yield path, config
            return
        children: Iterator[tuple[Any, Any]] = iter(config.items())
    elif isinstance(config, list):
        children = iter(enumerate(config))
    else:
        return
    for key, value in children:
        yield from _elmo_settings(value, f"{path}.{key}" if path else str(key))


def _find_settings(config: dict[str, Any], prefix: str, notes: list[str]) -> tuple[str, dict[str, Any]]:
    """Path and settings of the module at `prefix`; empty if the configuration does not contain them."""
    # The prefix contains the embedder's name: `token_embedder_elmo` for token_embedders.elmo.
    found = [(path, settings) for path, settings in _elmo_settings(config) if "model" in path.split(".")] or list(
        _elmo_settings(config)
    )
    if len(found) > 1:
        named = [item for item in found if f"token_embedder_{item[0].rsplit('.', 1)[-1]}." in prefix]
        found = named or found
    if len(found) == 1:
        return found[0]
    notes.append(
        "config.json does not describe the Elmo module uniquely: its dropout, layer norm and options are AllenNLP's "
        "defaults"
    )
    return "", {}


def _find_options(
    folder: Path, path: str, settings: dict[str, Any], notes: list[str]
) -> tuple[dict[str, Any], str] | None:
    """Content and name of the options file named in the settings, if it is in the folder.

    A configuration is untrusted: it may refer only to files in its own folder.
    """
    value = settings.get("options_file")
    if isinstance(value, dict):
        return value, f"{folder / 'config.json'} ({path}.options_file)"
    candidates = [_inside(folder, f"fta/{path}.options_file"), folder / "options.json"]
    named = value if isinstance(value, str) and "://" not in value else None
    if named is not None:
        candidates += [_inside(folder, named), _inside(folder, Path(named).name)]
    chosen = next((candidate for candidate in candidates if candidate is not None and isfile(candidate)), None)
    if chosen is not None:
        return read_json(chosen), str(chosen)
    if named is not None:
        notes.append(
            f"config.json names the options file {named!r}, which is not in the folder; files elsewhere are read only "
            "if you name them: --options"
        )
    return None


def _inside(folder: Path, name: str) -> Path | None:
    """The path `name` below `folder`; `None` if it leads out of it. Symbolic links in the user's folder are allowed."""
    base = Path(abspath(folder))
    path = Path(abspath(base / name))
    return path if base in path.parents else None


def options_from_shapes(state: Mapping[str, Tensor], file: str, notes: list[str]) -> dict[str, Any]:
    """Reconstruct the options of an `Elmo` without options file: sizes from its tensors, the rest AllenNLP's constants.

    Args:
        state: Tensors below the prefix.
        file: Name of the file, for messages.
        notes: Receives a sentence about the assumptions.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"{file}: missing {name!r}: not a complete Elmo")
        return tuple(state[name].shape)

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in state)

    convolutions = count(re.escape(_EMBEDDER) + r"char_conv_\d+\.weight")
    shapes = [shape(f"{_EMBEDDER}char_conv_{i}.weight") for i in range(convolutions)]
    projection = shape("_elmo_lstm._elmo_lstm.forward_layer_0.state_projection.weight")
    if len(projection) != 2 or any(len(one) != 3 for one in shapes) or len(shape(_TABLE)) != 2:
        raise CheckpointError(f"{file}: its tensors do not have the shapes of an Elmo")
    notes.append(
        "no options file was found: sizes are those of the tensors, and assumed are relu, "
        f"{DEFAULT_CHARACTERS_PER_WORD} characters per word and clips of {DEFAULT_CLIP:g}, as in all published models; "
        "give the file with --options if it is another model"
    )
    return {
        "lstm": {
            "projection_dim": projection[0],
            "dim": projection[1],
            "n_layers": count(r"_elmo_lstm\._elmo_lstm\.forward_layer_\d+\.state_projection\.weight"),
            "use_skip_connections": True,
            "cell_clip": DEFAULT_CLIP,
            "proj_clip": DEFAULT_CLIP,
        },
        "char_cnn": {
            "activation": "relu",
            "embedding": {"dim": shape(_TABLE)[1]},
            "filters": [[one[2], one[0]] for one in shapes],
            "n_highway": count(re.escape(_EMBEDDER) + r"_highways\._layers\.\d+\.weight"),
            "n_characters": NUM_CHARACTERS,
            "max_characters_per_token": DEFAULT_CHARACTERS_PER_WORD,
        },
    }


def _is_float32(value: Any) -> bool:
    # Comparison is false for NaN and for integers beyond the range of floats.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX


def _mix_options(settings: dict[str, Any], file: str) -> MixOptions:
    fixed = settings.get("scalar_mix_parameters")
    dropout = settings.get("dropout", 0.5)
    if fixed is not None and not (isinstance(fixed, list) and all(map(_is_float32, fixed))):
        raise CheckpointError(f"{file}: scalar_mix_parameters is {fixed!r}, expected a list of finite numbers")
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise CheckpointError(f"{file}: dropout of the Elmo is {dropout!r}, expected a probability below 1")
    return MixOptions(bool(settings.get("do_layer_norm", False)), float(dropout), fixed)


def _stored(state: Mapping[str, Tensor], file: str) -> dict[str, StoredTensor]:
    """Tensors below the prefix, with the scalars of each mix joined into one vector."""
    tensors: dict[str, StoredTensor] = {}
    scalars: dict[str, dict[int, Tensor]] = {}

    for name, tensor in state.items():
        match = re.fullmatch(r"(scalar_mix_\d+\.scalar_parameters)\.(\d+)", name)
        if match:
            scalars.setdefault(match[1], {})[int(match[2])] = tensor
        elif name != CACHED_WORDS:
            tensors[name] = StoredTensor.of(file, name, tensor)
    for name, parts in scalars.items():
        if sorted(parts) != list(range(len(parts))) or any(part.shape != (1,) for part in parts.values()):
            raise CheckpointError(
                f"{file}: {name} has the parts {sorted(parts)}, expected one number per layer, from 0 on"
            )
        tensors[name] = StoredTensor.of(file, name, torch.cat([parts[j] for j in range(len(parts))]))
    return tensors


def _is_of_elmo(name: str, prefix: str) -> bool:
    # Other modules of the task may have names with the same beginning.
    return name.startswith(prefix) and name.removeprefix(prefix).startswith(("_elmo_lstm.", "scalar_mix_"))


def open_place(place: Place) -> ElmoSource | None:
    """Open only the ELMo of a task model; arguments and errors as in `open_elmo`."""
    source = open_elmo(place)
    if source is not None and source.others:
        where = source.prefix or "the module"
        source.notes.insert(0, f"left out {source.others} tensors of the task model around {where!r}")
    if source is not None and source.is_projected:
        source.notes.append("the task model projects ELMo's vectors (projection_dim); that layer is not part of ELMo")
    return source


def _tokens_to_add(config: dict[str, Any], file: str) -> dict[str, int]:
    """Words to which the indexer of an `Elmo` assigns a character id of their own."""
    found: dict[str, int] = {}
    reader = config.get("dataset_reader")
    indexers = reader.get("token_indexers") if isinstance(reader, dict) else None
    for name, indexer in indexers.items() if isinstance(indexers, dict) else ():
        added = indexer.get("tokens_to_add") if isinstance(indexer, dict) else None
        if added is None or indexer.get("type") != "elmo_characters":
            continue
        if not isinstance(added, dict):
            raise CheckpointError(
                f"{file}: dataset_reader.token_indexers.{name}.tokens_to_add is {added!r}, expected an object of words "
                "and characters"
            )
        found |= added
    return found


def open_elmo(place: Place) -> ElmoSource | None:
    """Open a state dict, an unpacked archive or a training folder; `None` for other places.

    Raises:
        CheckpointError: no Elmo, several, or damaged files.
    """
    weights = find_weights(place)
    if weights is None:
        return None
    folder, state = place.folder, place.state_dict(weights)
    place.refuse(weights, "an AllenNLP model has no softmax", "softmax")
    notes: list[str] = []
    prefix = find_prefix(state, str(weights))
    elmo = {name.removeprefix(prefix): tensor for name, tensor in state.items() if _is_of_elmo(name, prefix)}
    config_file = folder / "config.json"
    path: str = ""
    settings: dict[str, Any] = {}
    added: dict[str, int] = {}
    if config_file.is_file():
        config = read_archive_config(config_file)
        path, settings = _find_settings(config, prefix, notes)
        added = _tokens_to_add(config, str(config_file))
    else:
        notes.append("no config.json next to the weights: dropout and layer norm of the mixes are AllenNLP's defaults")
    if place.options is not None:
        options, name = read_json(place.options), str(place.options)
    elif found := _find_options(folder, path, settings, notes):
        options, name = found
    else:
        options, name = options_from_shapes(elmo, str(weights), notes), str(weights)
    tensors = _stored(elmo, str(weights))
    return ElmoSource(
        description=f"AllenNLP model with an Elmo at {prefix or 'the top'!r}: {weights.name}",
        layout="allennlp",
        file=str(weights),
        tensors=tensors,
        options=options,
        options_file=name,
        # The archive's own vocabulary belongs to the task.
        vocabulary=Vocabulary(place.vocabulary) if place.vocabulary is not None else None,
        mixes=_mix_options(settings, str(config_file)),
        prefix=prefix,
        others=len(state) - len(elmo),
        tokens_to_add=added,
        is_projected=prefix.endswith("._elmo.") and prefix.removesuffix("_elmo.") + "_projection.weight" in state,
        notes=notes,
    )
