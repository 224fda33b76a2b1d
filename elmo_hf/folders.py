"""Checks of saved folders: damaged files, and sizes that contradict the weights.

A checkpoint's own code calls these functions if `elmo_hf` is installed. Without the package, errors are those of
Transformers. An error here names the file, the expectation and the remedy. Sizes are compared before memory is
allocated. This file imports nothing of the package, because it may be loaded without it.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import CONFIG_NAME, logging

# Settings files of each part of a folder.
FILES = {
    "model": (CONFIG_NAME, "generation_config.json", "model.safetensors.index.json"),
    "tokenizer": (
        "tokenizer_config.json",
        "tokenizer.json",
        "character_vocabulary.json",
        "special_tokens_map.json",
        "added_tokens.json",
        CONFIG_NAME,
    ),
}


class DamageError(ValueError):
    """A local folder cannot be read; the message names the file, what was found and the remedy."""


@contextmanager
def damage_named(name: str | os.PathLike[str], part: str = "model") -> Iterator[None]:
    """Context manager that adds the faulty file and the remedy to errors about a local folder.

    Args:
        name: a folder, or a name on the Hub.
        part: the part of the folder that is read, `"model"` or `"tokenizer"`.

    Raises:
        DamageError: a file is a pipe or device, which may never end; or cannot be read.
    """
    folder, remedy = Path(name), f"Fetch or save the {part} again"
    files = [folder / file for file in FILES[part]]
    for path in files:
        if path.exists() and not path.is_file():
            raise DamageError(f"{path}: not a regular file; expected a JSON object. {remedy}")
    try:
        yield
    except (ImportError, NotImplementedError, DamageError):
        raise
    except Exception as error:
        told, damaged = str(error).rstrip(".") or type(error).__name__, next(filter(_is_damaged, files), None)
        has_one_text = len(error.args) == 1
        if not folder.is_dir():
            if isinstance(error, OSError) and has_one_text and str(name) not in told:
                error.args = (f"{name}: {told}",)
            raise
        is_damage = damaged is not None or isinstance(error, UnicodeError | RecursionError)
        is_damage = is_damage or not isinstance(error, ValueError | OSError | RuntimeError | StrictDataclassError)
        if not is_damage and (str(folder) in told or not has_one_text):
            raise
        message = f"{damaged or folder}: {told}. {remedy}"
        if is_damage:
            raise DamageError(message) from error
        error.args = (message,)
        raise


def _is_damaged(path: Path) -> bool:
    """True if a settings file exists and does not contain a JSON object."""
    try:
        # A pipe is not read: it may never end.
        return path.exists() and not (path.is_file() and isinstance(json.loads(path.read_text("utf-8")), dict))
    except (ValueError, RecursionError, OSError):
        return True


@contextmanager
def reading_model(kind: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
    """Context manager for `kind.from_pretrained(*args, **kwargs)`: errors about a local folder name its files.

    A configuration that describes a far larger model than the stored weights is refused before memory is allocated.

    Raises:
        OSError, ValueError, RuntimeError: a damaged folder, or weights that do not match the configuration.
    """
    name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    if not isinstance(name, str | os.PathLike) or not os.path.isdir(name) or kwargs.get("subfolder"):
        yield
        return
    config = kwargs.get("config")
    with damage_named(name):
        if config is None or isinstance(config, str | os.PathLike):  # else of any copy of its class
            fields = {each: kwargs[each] for each in kwargs if each in kind.config_class.__annotations__}
            config = kind.config_class.from_pretrained(config or name, **fields)
        if not kwargs.get("ignore_mismatched_sizes"):
            check_sizes(kind, name, config)
        with shapes_named(kind, name, config):
            yield


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Context without Transformers' progress bars of files, which would break other output."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# ---- sizes of a configuration, compared with the stored weights

# Models up to SMALL weights are not checked. Beyond, the number of new weights is limited: absolutely, and as a
# multiple of the stored ones.
SMALL, LARGEST_NEW, LARGEST_SHARE = 2**27, 2**31, 20
# Part of Transformers' error message for weights of another shape.
_OTHER_SHAPES = "ignore_mismatched_sizes"


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a folder's safetensors files, read from the headers; empty without such files.

    Raises:
        ValueError: an invalid header; the message names the file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > path.stat().st_size:
                    raise ValueError(f"a header of {size} bytes")
                header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            shapes.update({name: tuple(map(int, value["shape"])) for name, value in header.items()})
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{path}: damaged safetensors file ({error}). Fetch or save the model again") from error
    return shapes


def check_sizes(kind: Any, name: str | os.PathLike[str], config: Any) -> None:
    """Refuse a configuration that describes a far larger model than the stored weights.

    Args:
        kind: class of the model to be created.
        name: a folder; nothing is checked for a name on the Hub, or without safetensors files.
        config: its configuration, from any copy of its class. If it lacks a field, as one of another version may,
            nothing is checked.

    Raises:
        ValueError: the configuration is refused; the message names the file and the tensor.
    """
    folder = Path(name)
    stored = stored_shapes(folder) if folder.is_dir() else {}
    present = sum(map(math.prod, stored.values()))
    try:
        wanted = approximate_weights(config)
    except AttributeError:  # a configuration of another version, without some field
        return
    if not stored or wanted <= 4 * present + SMALL:
        return
    missing = differing(kind, folder, config, stored)
    new = sum(missing.values())
    if new > max(LARGEST_NEW, LARGEST_SHARE * present):
        largest = max(missing, key=missing.__getitem__)
        raise ValueError(
            f"{folder / CONFIG_NAME}: asks for {new:,} weights that are not in the folder, {largest} among them with "
            f"{missing[largest]:,}, beside {present:,} that are: expected the sizes of the saved weights. Fetch or "
            "save the model again"
        )


def differing(kind: Any, folder: Path, config: Any, stored: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The number of values of each tensor of the model that the folder lacks.

    Raises:
        ValueError: a tensor has another shape in the folder.
    """
    import torch  # imported here because configurations can be read without PyTorch

    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in kind(config).state_dict().items()}
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{folder / CONFIG_NAME}: no model has such sizes ({error})") from error
    prefix = f"{kind.base_model_prefix}."
    missing: dict[str, int] = {}
    for name, shape in expected.items():
        found = next((stored[n] for n in (name, name.removeprefix(prefix), prefix + name) if n in stored), None)
        if found is None:
            missing[name] = math.prod(shape)
        elif found != shape:
            raise ValueError(
                f"{folder}: {name} has shape {found} in the file of weights, and {CONFIG_NAME} asks for {shape}: "
                "expected both of one model. Fetch or save the model again (ignore_mismatched_sizes=True reinitializes "
                "such weights)"
            )
    return missing


@contextmanager
def shapes_named(kind: Any, name: str | os.PathLike[str], config: Any) -> Iterator[None]:
    """Context manager that adds the tensor and both shapes to errors about weights of another shape."""
    try:
        yield
    except RuntimeError as error:
        if _OTHER_SHAPES in str(error) and Path(name).is_dir():
            try:
                differing(kind, Path(name), config, stored_shapes(Path(name)))
            except ValueError as found:
                error.args = (str(found),)
            except AttributeError:  # a configuration of another version
                pass
        raise


def approximate_weights(config: Any) -> int:
    """Approximate number of weights of the largest model with this configuration, which may be malicious."""
    width, filters, depth = config.projection_size, config.num_filters, config.num_hidden_layers
    words = config.vocab_size * (config.word_embedding_size + width + config.word_vector_size + 2)
    characters = config.character_embedding_size * (
        config.num_characters + sum(pair[0] * pair[-1] for pair in config.character_filters)
    )
    highways = 2 * config.num_highway_layers * max(filters, width) ** 2
    layers = 18 * depth * config.cell_size * width
    if config.encoder_type == "transformer":
        layers = depth * width * (8 * width + 4 * config.feed_forward_size) + config.max_position_embeddings * width
    own = [pair[-1] for pair in config.task_character_filters]
    inner = [int(layer[0]) for layer in config.pre_encoder_layers]
    reads = 4 * width + config.word_vector_size + sum(own) + sum(inner)
    task = config.num_task_characters * config.task_character_size + sum(
        pair[0] * pair[-1] * config.task_character_size for pair in config.task_character_filters
    )
    task += 20 * config.task_lstm_layers * config.task_lstm_size * (config.task_lstm_size + reads)
    task += (
        20 * config.integrator_layers * config.integrator_size * (config.integrator_size + 6 * config.task_lstm_size)
    )
    wide = inner + [int(layer[0]) for layer in config.classifier_layers]
    wide += [size * config.maxout_pieces for size in config.maxout_sizes]
    task += sum(wide) * (reads + 8 * config.task_lstm_size + max(wide, default=0)) + len(config.id2label or ()) ** 2
    tags = config.num_pos_tags * config.pos_tag_embedding_size
    return words + characters + highways + filters * width + layers + task + tags
