"""From an original checkpoint to a Transformers folder."""

import json
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer

from .errors import CheckpointError
from .formats.detect import open_source
from .formats.source import Source
from .names import ALLENNLP_RULES, BILM_RULES, Entry, check_complete, expand, listing, rename
from .options import config_from_options, is_word_model
from .output import check_output, new_folder

SOFTMAX = ("softmax/W", "softmax/b")
WORD_TABLE = "embedding"
# The variance's epsilon in AllenNLP's ScalarMix.
ALLENNLP_EPSILON = 1e-13


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` did.

    Attributes:
        source: The format and files that were recognised.
        output: The folder.
        architecture: Class of the model that was saved.
        tensors: Number of tensors converted.
        parameters: Number of values in them.
        vocab_size: Word ids of the tokenizer.
        notes: Sentences about what was assumed or left out.
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
    without_vocabulary: bool = False,
    without_softmax: bool = False,
    remote_code: bool = True,
    force: bool = False,
) -> ConversionReport:
    """Convert an original ELMo into a folder that Transformers loads; every bit of every weight is kept.

    Args:
        source: A folder, ZIP or `model.tar.gz`, an HDF5 weight file, or the prefix of a TensorFlow checkpoint. The
            format is recognised by content.
        output: The folder to make; written beside and moved into place when it is complete.
        options, weights, vocabulary, softmax: Files that are not beside the source, or not to be guessed.
        without_vocabulary: Leave the vocabulary out, and with it the softmax, whose rows are its lines. A character
            model embeds any word without it; a model that reads words by their id cannot do so.
        without_softmax: Leave the softmax out; the result is an `ElmoModel`.
        remote_code: Put the code into the folder, for `trust_remote_code=True` where this package is missing.
        force: Replace a model folder at `output`.

    Raises:
        CheckpointError: what is wrong, and the remedy.
        OSError: the output cannot be written; then nothing is left of it.
    """
    paths = [Path(path) if path is not None else None for path in (options, weights, vocabulary, softmax)]
    source, output = Path(source), Path(output)
    check_output(output, force, source, *(path for path in paths if path is not None))
    without_softmax = without_softmax or without_vocabulary
    if (without_vocabulary and vocabulary is not None) or (without_softmax and softmax is not None):
        raise CheckpointError("a file cannot both be given and left out: drop one of the two options")
    with open_source(source, options=paths[0], weights=paths[1], vocabulary=paths[2], softmax=paths[3]) as opened:
        if without_vocabulary and is_word_model(opened.options or {}):
            raise CheckpointError(
                f"{opened.file}: reads words by the line they have in its vocabulary and cannot do without: drop "
                "--without-vocabulary"
            )
        if without_softmax:
            tensors = {name: value for name, value in opened.tensors.items() if not name.endswith(SOFTMAX)}
            opened = replace(opened, tensors=tensors, vocabulary=None if without_vocabulary else opened.vocabulary)
        return _convert(opened, output, remote_code)


def _convert(source: Source, output: Path, remote_code: bool) -> ConversionReport:
    notes = list(source.notes)
    stored = _standard_names(source)
    config = _configuration(source, stored, notes)
    has_softmax = any(name in stored for name in SOFTMAX)
    words = _vocabulary_rows(source, stored)
    rules = ALLENNLP_RULES if source.layout == "allennlp" else BILM_RULES
    # A bare biLM of AllenNLP has no mixes.
    mixes = any(name.endswith(".gamma") for name in stored)
    entries = list(expand(rules, config, words, mixes, has_softmax))
    # All names and shapes first, values after: nothing is allocated for a file that does not fit its options.
    check_complete(entries, stored, source.file)
    for entry in entries:
        entry.check_shape(source.tensors[stored[entry.original]].shape, source.file)
    tokenizer = _tokenizer(source, config)
    _set_words(config, tokenizer, words, source)
    model = _build(config, has_softmax)
    parameters = _read(source, stored, entries, config, model)
    model.load_state_dict(parameters, strict=True, assign=True)
    model.tie_weights()
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if not remote_code:
            remove_code(folder)
    return ConversionReport(
        source=source.description,
        output=output,
        architecture=type(model).__name__,
        tensors=len(entries),
        # A shared table has two names.
        parameters=sum(value.numel() for value in {id(value): value for value in parameters.values()}.values()),
        vocab_size=config.vocab_size,
        notes=tuple(notes),
    )


def _standard_names(source: Source) -> dict[str, str]:
    """Standard name -> stored name of every tensor."""
    if source.layout == "allennlp":
        return {name: name for name in source.tensors}
    return rename(source.tensors)


def _vocabulary_rows(source: Source, stored: dict[str, str]) -> int | None:
    """Lines of the vocabulary that the model was trained with; `None` if no tensor has a row for each.

    Raises:
        CheckpointError: a tensor has, and there is no vocabulary to say which words they are.
    """
    named = [name for name in (WORD_TABLE, *reversed(SOFTMAX)) if name in stored]
    if not named:
        return None
    if source.vocabulary is None:
        if named[0] == WORD_TABLE:
            raise CheckpointError(
                f"{source.file}: reads words by the line they have in its vocabulary, and there is none beside it: "
                "give its file with --vocabulary"
            )
        raise CheckpointError(
            f"{source.file}: comes with softmax weights, whose rows mean nothing without the vocabulary: give its file "
            "with --vocabulary, or leave the softmax out with --without-softmax"
        )
    shape = source.tensors[stored[named[0]]].shape
    return shape[0] if shape else 0


def _configuration(source: Source, stored: dict[str, str], notes: list[str]) -> ElmoConfig:
    assert source.options is not None
    fields: dict[str, Any] = {}
    if source.layout == "allennlp":
        # AllenNLP always projects, and has the forget bias of 1 inside the stored bias.
        fields.update(character_projection=True, cell_projection=True, forget_bias=0.0)
        if source.mixes is not None:
            count = sum(name.endswith(".gamma") for name in stored)
            fields.update(
                num_representations=max(1, count),
                scalar_mix="learned" if source.mixes.fixed is None else "fixed",
                scalar_mix_parameters=source.mixes.fixed,
                scalar_mix_layer_norm="tokens" if source.mixes.layer_norm else None,
                representation_dropout=source.mixes.dropout,
            )
            if source.mixes.layer_norm:
                fields.update(scalar_mix_layer_norm_epsilon=ALLENNLP_EPSILON)
        if not source.options.get("lstm", {}).get("use_skip_connections"):
            raise CheckpointError(
                f"{source.options_file}: lstm.use_skip_connections is not true, which AllenNLP refuses: these are not "
                "the options of this model"
            )
    else:
        # bilm-tf projects only between different sizes; a file written by AllenNLP's rules has both all the same.
        fields.update(
            {
                field: True
                for field, name in (
                    ("character_projection", "CNN_proj/W_proj"),
                    ("cell_projection", "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0"),
                )
                if name in stored
            }
        )
        if is_word_model(source.options) and source.options.get("share_embedding_softmax") is True:
            # The dump of such a model, which has no softmax, has nothing to share.
            fields.update(tie_word_embeddings="softmax/b" in stored)
    return config_from_options(source.options, source.options_file, notes, **fields)


def _tokenizer(source: Source, config: ElmoConfig) -> ElmoTokenizer:
    try:
        return ElmoTokenizer(
            vocab_file=str(source.vocabulary) if source.vocabulary is not None else None,
            max_characters_per_word=config.max_characters_per_word,
        )
    except ValueError as error:
        remedy = ". A character model also works without its vocabulary: --without-vocabulary"
        raise CheckpointError(f"{error}{'' if config.word_embedding_size else remedy}") from error


def _set_words(config: ElmoConfig, tokenizer: ElmoTokenizer, words: int | None, source: Source) -> None:
    """Give the configuration the tokenizer's ids; check the rows of words against the vocabulary."""
    size = len(tokenizer)
    if words is not None and source.vocabulary is not None:
        with source.vocabulary.open(encoding="utf-8-sig") as file:
            mask_is_listed = any(line.strip() == tokenizer.mask_token for line in file)
        # Padding comes before the file's words; the mask comes behind them, unless the file has it.
        lines = size - 1 if mask_is_listed else size - 2
        if words != lines:
            part = "table of words" if config.word_embedding_size else "softmax"
            remedy = "" if config.word_embedding_size else ", or leave the softmax out (--without-softmax)"
            raise CheckpointError(
                f"{source.vocabulary}: has {lines} words, but the {part} of {source.file} has {words} rows; give the "
                f"vocabulary that the model was trained with{remedy}"
            )
    config.vocab_size = size
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "mask_token_id"):
        setattr(config, name, getattr(tokenizer, name))


def _build(config: ElmoConfig, with_softmax: bool) -> PreTrainedModel:
    """The model without memory for its weights: they are assigned, not copied."""
    with torch.device("meta"):
        return (ElmoForPreTraining if with_softmax else ElmoModel)(config)


def _read(
    source: Source, stored: dict[str, str], entries: list[Entry], config: ElmoConfig, model: PreTrainedModel
) -> dict[str, Tensor]:
    """All parameters of the model, converted one array at a time.

    Raises:
        CheckpointError: the tables and the model disagree, or a tensor cannot be read.
    """
    prefix = "" if isinstance(model, ElmoModel) else "elmo."
    shapes = {name.removeprefix(prefix): tuple(value.shape) for name, value in model.state_dict().items()}
    parameters: dict[str, Tensor] = {}
    for entry in entries:
        rows = shapes[entry.parameters[0]][0]
        arrays = entry.transform.to_parameters(source.tensors[stored[entry.original]].read(), rows)
        parameters.update(zip(entry.parameters, map(torch.from_numpy, arrays), strict=True))
    # What no language model has: the mixes start as a new model's.
    layers = config.num_hidden_layers + 1
    for k in range(config.num_representations):
        parameters.setdefault(f"scalar_mixes.{k}.weights", torch.zeros(layers))
        parameters.setdefault(f"scalar_mixes.{k}.gamma", torch.ones(1))
    if config.tie_word_embeddings:
        # One tensor under two names.
        parameters["softmax.weight"] = parameters["embeddings.word_embeddings.weight"]
    converted = {name: tuple(value.shape) for name, value in parameters.items()}
    if converted != shapes:
        wrong = sorted(name for name, _ in converted.items() ^ shapes.items())
        raise CheckpointError(f"{source.file}: the tables and the model disagree about {listing(dict.fromkeys(wrong))}")
    return {name if name.startswith("softmax.") else prefix + name: value for name, value in parameters.items()}


def remove_code(folder: Path) -> None:
    """Take the code that `save_pretrained` adds out of a folder, and the references to it."""
    for path in folder.glob("*.py"):
        path.unlink()
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("auto_map", None) is not None:
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
