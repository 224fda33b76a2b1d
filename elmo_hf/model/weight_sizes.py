"""Sizes of a configuration beside the weights of its folder: compared before anything is allocated for them."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import CONFIG_NAME

# A model this small is made without asking, and one of so many new weights is never meant.
SMALL, LARGEST_NEW, LARGEST_SHARE = 2**27, 2**31, 20
# What Transformers says of weights of other shapes.
_OTHER_SHAPES = "ignore_mismatched_sizes"


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a folder's safetensors files, by their headers; empty without such files.

    Raises:
        ValueError: a header that is none; the message names the file.
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
    """Refuse a configuration that asks for far more weights than lie beside it.

    Args:
        kind: the class that is about to be made.
        name: a folder; nothing is checked for a name on the Hub, or without safetensors files.
        config: its configuration.

    Raises:
        ValueError: names the file and the tensor.
    """
    folder = Path(name)
    stored = stored_shapes(folder) if folder.is_dir() else {}
    present = sum(map(math.prod, stored.values()))
    # A configuration in an older copy of its class cannot tell.
    if not stored or getattr(config, "approximate_weights", 0) <= 4 * present + SMALL:
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
    """The number of values of each tensor that a configuration asks for and the folder lacks.

    Raises:
        ValueError: one has another shape there.
    """
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
                "expected both of one model. Fetch or save the model again (ignore_mismatched_sizes=True makes such "
                "weights anew)"
            )
    return missing


@contextmanager
def shapes_named(kind: Any, name: str | os.PathLike[str], config: Any) -> Iterator[None]:
    """Context in which weights of another shape are an error that names the tensor and both shapes."""
    try:
        yield
    except RuntimeError as error:
        if _OTHER_SHAPES in str(error) and Path(name).is_dir():
            try:
                differing(kind, Path(name), config, stored_shapes(Path(name)))
            except ValueError as found:
                error.args = (str(found),)
        raise
