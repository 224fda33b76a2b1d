"""Weights rearranged once for a kernel and kept for as long as they do not change.

They are kept beside the modules, not in them: copies, pickles and checkpoints know nothing of them. A module has at
most one; the kernel says how to lay it out. A changed weight is recognized so:

| written by | seen |
|---|---|
| in-place operators, `copy_`, `load_state_dict`, optimizers, pruning | always: autograd counts versions |
| `to`, a swapped parameter, `set_`, `weight.data = ...`, `functional_call` | always: other memory |
| in place through `weight.data`, weights of up to 65,536 values | always: all values are compared |
| the same, larger weights (EMA, merged adapters) | if 1/64 of the values in a row, or most of all, change |

After writing less of a large weight through `.data`, call `model.refresh()`.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Weights of so many values or fewer are compared in full.
COMPARED_IN_FULL = 2**16
# Runs of values of a larger weight that are compared, and their length. Few values are not enough: merging an adapter
# into bfloat16 weights goes through `.data`, and changes but some of them. Runs touch few pages of a mapped file.
RUNS, LENGTH = 64, 32
# Integers of as many bytes as a value has.
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Fingerprint:
    """Fingerprint of weights: their addresses, numbers of writes, and some of their values.

    Optimizers, `load_state_dict` and `to` change the first two. Writing through `weight.data` changes neither; the
    values tell, unless only a part of a weight was written.
    """

    def __init__(self, weights: Sequence[Tensor | None]) -> None:
        present = [weight for weight in weights if weight is not None]
        self._identities = _identities(present)
        # NumPy's views of the weights' memory, made once: copying and comparing their bytes takes a third of the time
        # that one operator of PyTorch takes. While they are held no other tensor can come to lie there.
        self._probes = list(map(_probe, present))
        self._values = [probe.tobytes() for probe in self._probes]

    def is_of(self, weights: Sequence[Tensor | None]) -> bool:
        """True if these are the same weights, unchanged."""
        present = [weight for weight in weights if weight is not None]
        if self._identities != _identities(present):
            return False
        return all(probe.tobytes() == value for probe, value in zip(self._probes, self._values, strict=True))


def can_have_fingerprint(weight: Tensor) -> bool:
    """True if changes of a weight can be detected; an inference tensor does not count versions."""
    return not weight.is_inference() and weight.is_contiguous() and weight.device.type != "meta"


def _identities(weights: list[Tensor]) -> list[Any]:
    return [(weight.data_ptr(), _version(weight), weight.shape, weight.dtype) for weight in weights]


def _version(weight: Tensor) -> int:
    """Number of writes that autograd has counted; it counts none of an inference tensor."""
    return -1 if weight.is_inference() else weight._version


@torch.no_grad()
def _probe(weight: Tensor) -> NDArray[np.signedinteger]:
    """A view of the values to compare, as bits, because NaN is no change."""
    values = weight.detach().view(BITS[weight.element_size()]).numpy()
    if values.size <= COMPARED_IN_FULL or not weight.is_contiguous():
        return values
    part = values.size // RUNS
    return values.reshape(-1)[: RUNS * part].reshape(RUNS, part)[:, :LENGTH]


class _Prepared:
    """Prepared weights, with their layout and the fingerprint of the originals."""

    def __init__(self, weights: Sequence[Tensor | None], layout: str, make: Callable[[], Any]) -> None:
        self.layout = layout
        self.fingerprint = Fingerprint(weights)
        # A tensor made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.value = make()


_prepared: "weakref.WeakKeyDictionary[nn.Module, _Prepared]" = weakref.WeakKeyDictionary()


def prepared(module: nn.Module, weights: Sequence[Tensor | None], layout: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, called the first time and again after every change of the weights.

    Args:
        module: to which the weights belong.
        weights: that `make` reads; every one can have a fingerprint.
        layout: name of what `make` returns.
        make: called without gradients.
    """
    kept = _prepared.get(module)
    if kept is None or kept.layout != layout or not kept.fingerprint.is_of(weights):
        _prepared.pop(module, None)
        kept = _prepared[module] = _Prepared(weights, layout, make)
    return kept.value


def keeper(module: nn.Module, read: Sequence[Tensor | None], *beside: Tensor | None) -> Callable[..., Any] | None:
    """`prepared` of a module's weights, with a layout and `make` left to give; `None` where nothing may be kept.

    That is where one of the tensors trains, or changes of it cannot be seen. What was prepared is released then: it is
    out of date after the next step.

    Args:
        module: to which the weights belong.
        read: what is made of them is kept.
        beside: tensors that are used with it, as they are.
    """
    present = [tensor for tensor in (*read, *beside) if tensor is not None]
    is_int8 = present[0].dtype == torch.int8
    if present[0].numel() and all(_may_be_kept(tensor, is_int8) for tensor in present):
        return functools.partial(prepared, module, read)
    release(module)
    return None


def _may_be_kept(tensor: Tensor, is_int8: bool) -> bool:
    """True if what is made of a tensor can be kept: it does not train, and changes of it can be seen.

    Those of an int8 layer's inference tensors are seen by their values alone.
    """
    if torch.is_grad_enabled() and tensor.requires_grad:
        return False
    if type(tensor) not in (nn.Parameter, Tensor) or tensor.device.type != "cpu":
        return False
    return is_int8 or can_have_fingerprint(tensor)


# Of words' vectors (`word_cache`), likewise.
kept_words: "weakref.WeakKeyDictionary[nn.Module, Any]" = weakref.WeakKeyDictionary()


def release(module: nn.Module, *, only_trainable: bool = False) -> None:
    """Drop what was prepared for a module and all its submodules, or for those of them that train."""
    for part in module.modules():
        if not only_trainable or any(weight.requires_grad for weight in part.parameters(recurse=False)):
            _prepared.pop(part, None)
            kept_words.pop(part, None)
