"""Cache of weights rearranged for a kernel, valid while the weights do not change.

The cache is outside the modules, so copies, pickles and checkpoints do not contain it. A module has at most one entry,
in a layout chosen by the kernel. Changes of a weight are detected as follows:

| written by | detected |
|---|---|
| in-place operators, `copy_`, `load_state_dict`, optimizers, pruning | always: autograd's version counter |
| `to`, a replaced parameter, `set_`, `weight.data = ...`, `functional_call` | always: different memory |
| in place through `weight.data`, weights of up to 65,536 values | always: all values are compared |
| the same, larger weights (EMA, merged adapters) | if 1/64 of the values in a row, or most of all values, change |

After a smaller change to a large weight through `.data`, call `model.refresh()`.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Weights of at most this many values are compared in full.
COMPARED_IN_FULL = 2**16
# Number and length of the runs of values compared in larger weights. Single values would not be enough: merging an
# adapter into bfloat16 weights writes through `.data` and changes only some values. Runs touch few pages of a mapped
# file.
RUNS, LENGTH = 64, 32
# Integer dtype by the bytes of a value.
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Fingerprint:
    """Fingerprint of weights: addresses, version counters, and some of the values.

    Optimizers, `load_state_dict` and `to` change one of the first two. Writing through `weight.data` changes neither
    and is detected by the values, unless only a small part of a weight was written.
    """

    def __init__(self, weights: Sequence[Tensor | None]) -> None:
        present = [weight for weight in weights if weight is not None]
        self._identities = _identities(present)
        # NumPy views of the weights' memory: comparing their bytes takes a third of the time of a PyTorch operator.
        # Holding them also keeps the memory from being reused by another tensor.
        self._probes = list(map(_probe, present))
        self._values = [probe.tobytes() for probe in self._probes]

    def is_of(self, weights: Sequence[Tensor | None]) -> bool:
        """True if these are the same weights, unchanged."""
        present = [weight for weight in weights if weight is not None]
        if self._identities != _identities(present):
            return False
        return all(probe.tobytes() == value for probe, value in zip(self._probes, self._values, strict=True))


def can_have_fingerprint(weight: Tensor) -> bool:
    """True if changes of a weight can be detected; an inference tensor has no version counter."""
    return not weight.is_inference() and weight.is_contiguous() and weight.device.type != "meta"


def _identities(weights: list[Tensor]) -> list[Any]:
    return [(weight.data_ptr(), _version(weight), weight.shape, weight.dtype) for weight in weights]


def _version(weight: Tensor) -> int:
    """Autograd's version counter; -1 for an inference tensor, which has none."""
    return -1 if weight.is_inference() else weight._version


@torch.no_grad()
def _probe(weight: Tensor) -> NDArray[np.signedinteger]:
    """A view of the values to compare, as integers, because NaN does not equal itself."""
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
        # A tensor created in inference mode could not be used outside it.
        with torch.inference_mode(False), torch.no_grad():
            self.value = make()


_prepared: "weakref.WeakKeyDictionary[nn.Module, _Prepared]" = weakref.WeakKeyDictionary()


def prepared(module: nn.Module, weights: Sequence[Tensor | None], layout: str, make: Callable[[], Any]) -> Any:
    """Return the cached result of `make`, which is called again after every change of the weights.

    Args:
        module: the module that owns the weights.
        weights: all weights that `make` reads; see `can_have_fingerprint`.
        layout: name of the layout that `make` returns.
        make: called with gradients disabled.
    """
    kept = _prepared.get(module)
    if kept is None or kept.layout != layout or not kept.fingerprint.is_of(weights):
        _prepared.pop(module, None)
        kept = _prepared[module] = _Prepared(weights, layout, make)
    return kept.value


def keeper(module: nn.Module, read: Sequence[Tensor | None], *beside: Tensor | None) -> Callable[..., Any] | None:
    """`prepared` for a module's weights, to be called with a layout and `make`; `None` if nothing may be cached.

    Nothing is cached if a tensor is trained, or if its changes cannot be detected. The cached entry is then released,
    because it would be stale after the next step.

    Args:
        module: the module that owns the weights.
        read: tensors from which the cached value is made.
        beside: tensors that are used together with it, unchanged.
    """
    present = [tensor for tensor in (*read, *beside) if tensor is not None]
    is_int8 = present[0].dtype == torch.int8
    if present[0].numel() and all(_may_be_kept(tensor, is_int8) for tensor in present):
        return functools.partial(prepared, module, read)
    release(module)
    return None


def _may_be_kept(tensor: Tensor, is_int8: bool) -> bool:
    """True if values made from a tensor may be cached: it is not trained, and its changes can be detected.

    Changes of an int8 layer's inference tensors are detected by their values only.
    """
    if torch.is_grad_enabled() and tensor.requires_grad:
        return False
    if type(tensor) not in (nn.Parameter, Tensor) or tensor.device.type != "cpu":
        return False
    return is_int8 or can_have_fingerprint(tensor)


# Word caches (`word_cache`) by word layer.
kept_words: "weakref.WeakKeyDictionary[nn.Module, Any]" = weakref.WeakKeyDictionary()


def release(module: nn.Module, *, only_trainable: bool = False) -> None:
    """Drop the cache entries of a module and its submodules, or only of those that are trainable."""
    for part in module.modules():
        if not only_trainable or any(weight.requires_grad for weight in part.parameters(recurse=False)):
            _prepared.pop(part, None)
            kept_words.pop(part, None)
