"""Conversion of an original checkpoint to a Transformers folder."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from elmo_hf import ElmoForPreTraining, ElmoModel
from elmo_hf.hub import CardFacts, SourceFile, write_card

from .common.errors import CheckpointError, listing
from .common.output import check_output, new_folder
from .common.plan import SOFTMAX, Plan, check_words
from .common.source import Source
from .common.transforms import Array
from .detect import open_source
from .formats import EXPORTS, FORMATS


@dataclass(frozen=True)
class ConversionReport:
    """The outcome of `convert`.

    Attributes:
        source: Recognized format and files.
        output: The folder.
        architecture: Class of the saved model.
        tensors: Number of converted tensors.
        parameters: Number of values in them.
        vocab_size: Number of word ids of the tokenizer.
        notes: Sentences about assumptions and omissions.
    """

    source: str
    output: Path
    architecture: str
    tensors: int
    parameters: int
    vocab_size: int
    notes: tuple[str, ...]


def convert(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    options: str | PathLike[str] | None = None,
    weights: str | PathLike[str] | None = None,
    vocabulary: str | PathLike[str] | None = None,
    softmax: str | PathLike[str] | None = None,
    word_vectors: str | PathLike[str] | None = None,
    without_vocabulary: bool = False,
    without_softmax: bool = False,
    layer_norm_epsilon: float | None = None,
    elmo_only: bool = False,
    remote_code: bool = True,
    card: bool = True,
    force: bool = False,
) -> ConversionReport:
    """Convert an original ELMo to a folder that Transformers loads; weights are preserved bit for bit.

    Args:
        source: A folder, ZIP or `model.tar.gz`, an HDF5 weight file, or the prefix of a TensorFlow checkpoint. The
            format is recognized by content.
        output: The folder to create; it appears when it is complete.
        options, weights, vocabulary, softmax: Files that are not next to the source, or should not be guessed.
        word_vectors: A table that replaces a bilm-tf model's characters, with one row per line of the vocabulary: HDF5
            as written by `dump_token_embeddings`, or words and vectors in GloVe's or word2vec's format.
        without_vocabulary: Omit the vocabulary, and with it the softmax, whose rows are its lines. Only possible for
            character models, which embed any word.
        without_softmax: Omit the softmax; the result is an `ElmoModel`.
        layer_norm_epsilon: Epsilon of a Transformer language model, which its archive does not contain; `None` to infer
            it from the AllenNLP version that wrote the archive (1e-6 up to 0.9, 1e-13 from 1.0 on).
        elmo_only: Convert only the ELMo of an AllenNLP task model of any kind.
        remote_code: Include the code, for `trust_remote_code=True` without this package.
        card: Write a model card, with the SHA-256 of the files.
        force: Replace a model folder at `output`.

    Raises:
        CheckpointError: the conversion is not possible; the message gives the cause and the remedy.
        OSError: the output cannot be written; nothing is left of it.
    """
    given = {"options": options, "weights": weights, "vocabulary": vocabulary, "softmax": softmax}
    paths = {name: Path(path) for name, path in {**given, "word_vectors": word_vectors}.items() if path is not None}
    source, output = Path(source), Path(output)
    check_output(output, force, [source, *paths.values()], EXPORTS)
    without_softmax = without_softmax or without_vocabulary
    for name, leaves_out in (("vocabulary", without_vocabulary), ("softmax", without_softmax)):
        if leaves_out and name in paths:
            option = "vocabulary" if without_vocabulary else name
            raise CheckpointError(f"--{name} {paths[name]} and --without-{option} contradict each other: drop one")
    with open_source(source, **paths, elmo_only=elmo_only) as opened:
        room = FORMATS[opened.layout]
        if layer_norm_epsilon is not None:
            if not room.chooses_epsilon:
                raise CheckpointError(
                    f"{opened.file}: has no layer norm: leave --layer-norm-epsilon {layer_norm_epsilon:g} out"
                )
            opened = replace(opened, layer_norm_epsilon=layer_norm_epsilon)
        if without_vocabulary and (reason := room.needs_vocabulary(opened)):
            raise CheckpointError(f"{opened.file}: {reason}: drop --without-vocabulary")
        if without_softmax:
            tensors = {name: value for name, value in opened.tensors.items() if not name.endswith(SOFTMAX)}
            opened = replace(opened, tensors=tensors, vocabulary=None if without_vocabulary else opened.vocabulary)
        files = _source_files(source, [opened.file, opened.options_file, *paths.values()]) if card else None
        return _convert(opened, output, remote_code, files)


def _source_files(source: Path, read: Iterable[Path | str]) -> list[Path]:
    """Files to list in the card: the given archive or weight file, or the files read from a folder."""
    found = [source, *map(Path, read)] if not source.is_dir() else [*map(Path, read)]
    if not source.exists():  # the prefix of a TensorFlow checkpoint
        found += sorted(source.parent.glob(f"{source.name}.*"))
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _convert(source: Source, output: Path, remote_code: bool, files: list[Path] | None) -> ConversionReport:
    notes, room = list(source.notes), FORMATS[source.layout]
    plan = room.make_plan(source, notes)
    config = plan.config
    tokenizer = room.make_tokenizer(source, config, notes)
    check_words(plan, source)
    config.vocab_size = len(tokenizer)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "mask_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    if config.encoder_type == "transformer":
        tokenizer.model_max_length = config.max_position_embeddings
    room.complete(config, source, notes)
    kind = room.model(source, plan) or (ElmoForPreTraining if plan.has_softmax else ElmoModel)
    # On the meta device, since weights are assigned, not copied.
    try:
        with torch.device("meta"):
            model = kind(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{source.file}: no model has such options ({error}); fetch the model again") from error
    room.accept(source, model)
    of_task = room.parameters(source)
    parameters = _read(source, plan, model, of_task)
    model.load_state_dict(parameters, strict=True, assign=True)
    model.tie_weights()
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if not remote_code:
            remove_code(folder)
        if files is not None:
            facts = CardFacts(
                name=output.absolute().name,
                summary=f"A model of the ELMo family, converted from the files of {source.layout}.",
                source=[SourceFile(path.name, path.stat().st_size, sha256(path)) for path in files],
                notes=[without_folders(note) for note in notes],
            )
            write_card(folder, facts)
    return ConversionReport(
        source=source.description,
        output=output,
        architecture=type(model).__name__,
        tensors=len(plan.entries) + len(of_task),
        # A tied weight has two names.
        parameters=sum(value.numel() for value in {id(value): value for value in parameters.values()}.values()),
        vocab_size=config.vocab_size,
        notes=tuple(notes),
    )


def _read(source: Source, plan: Plan, model: PreTrainedModel, of_task: Mapping[str, Array]) -> dict[str, Tensor]:
    """Read all parameters of the model; those of the biLM are converted one array at a time.

    Raises:
        CheckpointError: the tables and the model disagree, or a tensor cannot be read.
    """
    config = model.config
    prefix = "" if isinstance(model, ElmoModel) else "elmo."
    shapes = {name.removeprefix(prefix): tuple(value.shape) for name, value in model.state_dict().items()}
    parameters: dict[str, Tensor] = {}
    for entry in plan.entries:
        if config.scalar_mix == "fixed" and entry.parameters[0].startswith("scalar_mixes."):
            # Already in the configuration.
            continue
        rows = shapes[entry.parameters[0]][0]
        arrays = entry.transform.to_parameters(source.tensors[plan.stored[entry.original]].read(), rows)
        parameters.update(zip(entry.parameters, map(torch.from_numpy, arrays), strict=True))
    # Language models have no mixes; they are newly initialized.
    layers = config.num_mixed_layers
    for k in range(config.num_representations if config.scalar_mix == "learned" else 0):
        parameters.setdefault(f"scalar_mixes.{k}.weights", torch.zeros(layers))
        parameters.setdefault(f"scalar_mixes.{k}.gamma", torch.ones(1))
    if config.tie_word_embeddings:
        # A tied weight, under both names.
        parameters["softmax.weight"] = parameters["embeddings.word_embeddings.weight"]
    others = {name: torch.from_numpy(value) for name, value in of_task.items()}
    others |= {name: parameters.pop(name) for name in list(parameters) if name.startswith("softmax.")}
    converted = {name: tuple(value.shape) for name, value in [*parameters.items(), *others.items()]}
    if converted != shapes:
        wrong = sorted(name for name, _ in converted.items() ^ shapes.items())
        raise CheckpointError(f"{source.file}: the tables and the model disagree about {listing(dict.fromkeys(wrong))}")
    return {prefix + name: value for name, value in parameters.items()} | others


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_folders(note: str) -> str:
    """Strip folders from the paths in a sentence, so that cards do not reveal them."""
    return " ".join(word.rpartition("/")[2] if os.sep in word.rstrip(":,;") else word for word in note.split(" "))


def remove_code(folder: Path) -> None:
    """Remove the code that `save_pretrained` adds to a folder, and the references to it."""
    for path in folder.glob("*.py"):
        path.unlink()
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("auto_map", None) is not None:
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
