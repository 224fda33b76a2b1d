"""Export of a Transformer ELMo from a Transformers folder to the archive of an AllenNLP language model."""

import gzip
import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..common.errors import CheckpointError
from ..common.options import DEFAULT_CHARACTERS_PER_WORD, NUM_CHARACTERS
from ..common.output import new_folder
from ..common.rules import expand
from ..common.saved_model import DEAD_BIAS, SOFTMAX_PARAMETERS, SavedModel, Written, read_tokenizer
from ..common.transforms import Array
from .reader import CONFIG, DEAD_BUFFER, DEAD_CLASS, SOFTMAX, SOFTMAX_LAYOUTS, UNKNOWN, WORDS
from .rules import EPSILON_FROM_1_0, EPSILON_UP_TO_0_9, HEADS, POSITION_TABLE, POSITIONS, archive_config, origins, rules

ARCHIVE, WEIGHTS, NAMESPACES = "model.tar.gz", "weights.th", "vocabulary/non_padded_namespaces.txt"
NAME = "token_characters"


def check_config(folder: Path, config: ElmoConfig, notes: list[str]) -> None:
    """Refuse models that the format cannot represent."""
    for condition, fault, holds in (
        (not config.causal, "causal=False", "causal ones only"),
        (config.num_attention_heads != HEADS, f"num_attention_heads={config.num_attention_heads}", f"{HEADS} always"),
        (not config.character_filters, "words read by their id", "those that read characters"),
        (config.joins_words, "characters joined to other parts of a word", "characters alone"),
        (config.context_word_layer, "context_word_layer=True", "none with such a layer"),
        (config.num_characters != NUM_CHARACTERS, f"num_characters={config.num_characters}", f"{NUM_CHARACTERS}"),
        (
            config.max_characters_per_word != DEFAULT_CHARACTERS_PER_WORD,
            f"max_characters_per_word={config.max_characters_per_word}",
            f"{DEFAULT_CHARACTERS_PER_WORD}",
        ),
    ):
        if condition:
            raise CheckpointError(
                f"{folder}: {fault}: AllenNLP's Transformer language models, the only original format of this encoder, "
                f"hold {holds}"
            )


def write(model: SavedModel, output: Path, softmax_layout: str) -> Written:
    """Write a model whose configuration was checked; `softmax_layout` is one of `SOFTMAX_LAYOUTS`."""
    config, notes = model.config, model.notes
    _note_epsilon(config, notes)
    words = _words(model)
    has_dead_class = words[-1] == DEAD_CLASS
    words = words[:-1] if has_dead_class else words
    tensors: OrderedDict[str, Array] = OrderedDict({DEAD_BUFFER: np.zeros(1, np.float32)})
    for entry in expand(rules(config, NAME), config, None, origins(NAME), softmax=False):
        tensors[entry.original] = model.original(entry, config.forget_bias)
    tensors[POSITION_TABLE] = _positions(tensors[POSITION_TABLE], notes)
    if not config.character_projection:
        # The program always creates this projection, even if it is not used.
        place = f"_text_field_embedder.token_embedder_{NAME}._encoder._module._projection."
        tensors[f"{place}weight"] = np.eye(config.projection_size, dtype=np.float32)
        tensors[f"{place}bias"] = np.zeros(config.projection_size, np.float32)
    matrix, vector = _softmax(model, len(words), has_dead_class)
    shapes = {"sparse": (matrix, vector[:, None]), "dense": (matrix, vector), "unsampled": (matrix.T, vector)}
    for name, array in zip(SOFTMAX_LAYOUTS[softmax_layout], shapes[softmax_layout], strict=True):
        tensors[SOFTMAX + name] = array
    weights = io.BytesIO()
    # Torch's older file format, because AllenNLP up to 0.9 cannot read the newer one.
    state = OrderedDict((name, torch.from_numpy(np.ascontiguousarray(array))) for name, array in tensors.items())
    torch.save(state, weights, _use_new_zipfile_serialization=False)
    settings = archive_config(config, softmax_layout, len(words) + 1)
    members = {
        CONFIG: (json.dumps(settings, indent=2) + "\n").encode(),
        WORDS: "".join(word + "\n" for word in words).encode(),
        NAMESPACES: b"*tags\n*labels\n",
        WEIGHTS: weights.getvalue(),
    }
    with new_folder(output) as partial:
        _write_tar(partial / ARCHIVE, members)
    return Written((ARCHIVE,), len(tensors), config.forget_bias)


def _write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a compressed tar of these files, identical at any time and for any user."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _note_epsilon(config: ElmoConfig, notes: list[str]) -> None:
    epsilon = config.layer_norm_epsilon
    if epsilon == EPSILON_FROM_1_0:
        notes.append(f"layer_norm_epsilon is {epsilon:g}, which AllenNLP computes with from 1.0 on")
    elif epsilon == EPSILON_UP_TO_0_9:
        notes.append(
            f"layer_norm_epsilon is {epsilon:g}, which AllenNLP computes with up to 0.9; from 1.0 on it is "
            f"{EPSILON_FROM_1_0:g}, and outputs differ by about 1e-5"
        )
    else:
        notes.append(
            f"layer_norm_epsilon is {epsilon:g}, which the archive does not hold: AllenNLP computes with "
            f"{EPSILON_UP_TO_0_9:g} up to 0.9 and with {EPSILON_FROM_1_0:g} from 1.0 on"
        )


def _words(model: SavedModel) -> list[str]:
    """Lines of `tokens.txt`, followed by the class without a word if the model has it."""
    folder, config, notes = model.folder, model.config, model.notes
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        raise CheckpointError(
            f"{folder}: no tokenizer in it, and AllenNLP loads no language model without a vocabulary; save the "
            "tokenizer there too"
        )
    _check_boundaries(tokenizer, folder)
    model.check_rows(tokenizer, config.vocab_size, "model")
    words = model.listed_words(tokenizer)
    unknown = words.index(str(tokenizer.unk_token))
    if words[unknown] != UNKNOWN:
        notes.append(f"the unknown word {words[unknown]!r} is called {UNKNOWN!r} there")
        words[unknown] = UNKNOWN
    unfit = [word for word in words[:-1] if word == DEAD_CLASS or "\n" in word or word.endswith("\r")]
    unfit += [UNKNOWN] if words.count(UNKNOWN) > 1 else []
    if unfit:
        raise CheckpointError(f"{folder}: the word {unfit[0]!r} cannot be stored in an AllenNLP vocabulary")
    if model.is_used(0):
        notes.append("the softmax row of the padding word is not zero; AllenNLP has no such word: left out")
    return words


def _check_boundaries(tokenizer: ElmoTokenizer, folder: Path) -> None:
    for name, token in (("bos_token", "<S>"), ("eos_token", "</S>")):
        if getattr(tokenizer, name) != token:
            raise CheckpointError(
                f"{folder}: {name} is {getattr(tokenizer, name)!r}: AllenNLP writes the boundary as {token!r}"
            )


def _positions(table: Array, notes: list[str]) -> Array:
    """The position embedding with AllenNLP's number of positions."""
    missing = POSITIONS - table.shape[1]
    if missing:
        done = "computed" if missing > 0 else "left out"
        notes.append(f"the table of positions has {table.shape[1]} rows and AllenNLP's {POSITIONS}: {done} the others")
    if missing > 0:
        width = table.shape[2]
        places = np.arange(table.shape[1], POSITIONS, dtype=np.float32)[:, None]
        columns = np.arange(0, width, 2, dtype=np.float32)
        angles = places * np.exp(columns * np.float32(-np.log(10000.0) / width))
        more = np.zeros((missing, width), np.float32)
        more[:, 0::2], more[:, 1::2] = np.sin(angles), np.cos(angles)
        return np.concatenate([table, more[None]], axis=1)
    return table[:, :POSITIONS]


def _softmax(model: SavedModel, words: int, has_dead_class: bool) -> tuple[Array, Array]:
    """Weight (words + 1, P) and bias (words + 1): one row per word, and a last one for the class without a word."""
    weight, bias = np.zeros((words + 1, model.config.projection_size), np.float32), np.zeros(words + 1, np.float32)
    if any(name not in model.parameters for name in SOFTMAX_PARAMETERS):
        model.notes.append("the model has no softmax and AllenNLP loads none without: written as zeros")
        return weight, bias
    # Our tables have a row for padding before the first word.
    known = words + has_dead_class
    for stored, name in zip((weight, bias), SOFTMAX_PARAMETERS, strict=True):
        stored[:known] = model.load(name)[1 : known + 1]
    if not has_dead_class:
        bias[-1] = DEAD_BIAS
        model.notes.append(
            f"AllenNLP's softmax has one more class, which is not a word: written with a bias of {DEAD_BIAS:g}, so "
            "that it takes no part"
        )
    return weight, bias
