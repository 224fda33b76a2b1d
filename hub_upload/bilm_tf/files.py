"""Search for the files of a bilm-tf model in folders and ZIPs.

It supports the names of simple_elmo and NLPL (`options.json`, `model.hdf5` or another `*.hdf5`, `vocab.txt.gz` or
`vocab.txt`) and of AI2 (`X_options.json`, `X_weights.hdf5`, `X_softmax_weights.hdf5`). Files are recognized by content,
so softmax weights or dumped embeddings in the same folder are never taken for the model.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ..common.errors import CheckpointError, listing
from .hdf5 import Content, inspect_hdf5, refuse_unsupported
from .tensorflow_checkpoint import checkpoint_prefixes, is_checkpoint_prefix

# Vocabulary names in the order in which simple_elmo looks for them.
VOCABULARIES = ("vocab.txt.gz", "vocab.txt", "vocabulary.txt")
# Other possible names of a vocabulary, and names of texts that are not a vocabulary.
VOCABULARY_NAME = re.compile(r"voc|\.(txt|dic|words?|lst)(\.gz)?$", re.IGNORECASE)
NO_VOCABULARY_NAME = re.compile(r"read|licen[cs]e|requirements|\.", re.IGNORECASE)
ARCHIVE_MEMBERS = (".json", ".hdf5", ".txt", ".txt.gz", ".dic", ".pkl", ".index", "checkpoint")


@dataclass(frozen=True)
class ModelFiles:
    """The files of one bilm-tf model.

    Attributes:
        weights: HDF5 file, or prefix of a TensorFlow checkpoint.
        options: `options.json`.
        vocabulary, softmax: Optional files.
        notes: Notes for the user.
    """

    weights: Path | None = None
    options: Path | None = None
    vocabulary: Path | None = None
    softmax: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_tensorflow(self) -> bool:
        return self.weights is not None and not self.weights.is_file() and is_checkpoint_prefix(self.weights)


def wanted_member(name: str) -> bool:
    """True if a member of a ZIP may belong to a model."""
    return name.endswith(ARCHIVE_MEMBERS) or ".data-" in name


def files_of_folder(folder: Path, given: ModelFiles) -> ModelFiles:
    """Complete the files `given` by the user with those of a folder.

    Raises:
        CheckpointError: no model, or several without a criterion to choose one.
    """
    files = given
    if files.weights is None:
        files = _find_weights(folder, files)
    if files.options is None:
        files = replace(files, options=_find_options(folder, files.weights))
    if files.vocabulary is None:
        found = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
        files = replace(files, vocabulary=found, notes=(*files.notes, *_note_of_vocabularies(folder, found)))
    return files


def _note_of_vocabularies(folder: Path, found: Path | None) -> list[str]:
    """Notes about files that may be a vocabulary under another name, if none was found."""
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and VOCABULARY_NAME.search(path.name) and not NO_VOCABULARY_NAME.match(path.name)
    )
    if found is not None or not others:
        return []
    return [
        f"{folder} has no vocabulary under the names {listing(list(VOCABULARIES))}, and none was read; it holds "
        f"{listing(others)}: if that is the vocabulary, name it with --vocabulary"
    ]


def files_of_weights(weights: Path, given: ModelFiles) -> ModelFiles:
    """Complete the files `given` by the user with those next to a weight file or checkpoint."""
    files = replace(given, weights=weights)
    softmax = None
    if files.softmax is None and weights.name.endswith("weights.hdf5"):
        beside = weights.with_name(weights.name.removesuffix("weights.hdf5") + "softmax_weights.hdf5")
        softmax = beside if beside.is_file() else None
    return files_of_folder(weights.parent, replace(files, softmax=files.softmax or softmax))


def _find_weights(folder: Path, files: ModelFiles) -> ModelFiles:
    contents: dict[Path, Content] = {path: inspect_hdf5(path) for path in sorted(folder.glob("*.hdf5"))}
    models = [path for path, content in contents.items() if content == "biLM"]
    word_models = [path for path, content in contents.items() if content == "word biLM"]
    checkpoints = checkpoint_prefixes(folder)
    notes = list(files.notes)
    if models and word_models:
        notes.append(
            f"{folder} also holds {listing([path.name for path in word_models])}, which reads words and not "
            "characters; name it as the source to convert it"
        )
    models = models or word_models
    if len(models) > 1:
        # simple_elmo's name takes precedence.
        models = [path for path in models if path.name == "model.hdf5"] or models
        if len(models) > 1:
            raise CheckpointError(
                f"{folder}: holds several models, {listing([path.name for path in models])}; name one of the files as "
                "the source"
            )
    if models:
        if checkpoints:
            notes.append(
                f"{folder} also holds the TensorFlow checkpoint {checkpoints[-1].name}; name it as the source to "
                "convert it instead, with its softmax"
            )
        chosen = models[0]
    elif checkpoints:
        chosen = checkpoints[-1]
        if len(checkpoints) > 1:
            notes.append(f"took {chosen.name}, the last of {len(checkpoints)} checkpoints")
    else:
        for path, content in contents.items():
            refuse_unsupported(content, str(path))
        raise CheckpointError(
            f"{folder}: no ELMo model in it: expected bilm-tf weights (*.hdf5) with options.json, a TensorFlow "
            "checkpoint, an AllenNLP archive (config.json with weights.th), or ELMoForManyLangs (encoder.pkl)"
        )
    softmaxes = [path for path, content in contents.items() if content == "softmax"]
    softmax = files.softmax
    if softmax is None and len(softmaxes) == 1:
        softmax = softmaxes[0]
    elif softmax is None and softmaxes:
        raise CheckpointError(
            f"{folder}: holds several softmax files, {listing([path.name for path in softmaxes])}; name one with "
            "--softmax"
        )
    return replace(files, weights=chosen, softmax=softmax, notes=tuple(notes))


def _find_options(folder: Path, weights: Path | None) -> Path:
    if weights is not None and weights.name.endswith("_weights.hdf5"):
        beside = folder / (weights.name.removesuffix("_weights.hdf5") + "_options.json")
        if beside.is_file():
            return beside
    plain = folder / "options.json"
    if plain.is_file():
        return plain
    candidates = sorted(folder.glob("*options*.json"))
    if len(candidates) == 1:
        return candidates[0]
    found = f"found {listing([path.name for path in candidates])}" if candidates else "there is none"
    raise CheckpointError(f"{folder}: expected one options.json beside the weights, {found}; name it with --options")
