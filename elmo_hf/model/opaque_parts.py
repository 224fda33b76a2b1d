"""Methods of a model that `torch.compile` treats as a single custom operator.

A model's control flow depends on the data: it packs the words of a batch, encodes each distinct word once, loops over
time steps. `torch.compile` would break the graph there and recompile for every length. So such a method is one custom
operator with known output shapes, and the compiler sees only the mixes, the classifiers and the loss around it.

The operator is defined in the installed package (`elmo_hf/kernels/opaque.py`), once per process for all copies of this
code. It finds the model by its registered number and calls its method. Without the package, the method breaks the
graph.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .conditions import is_in_graph

Results = Callable[..., list[tuple[Sequence[Any], torch.dtype]]]


def opaque(parts: Sequence[str], results: Results) -> Callable[[Any], Any]:
    """Decorator of a model's method that is one custom operator under `torch.compile`.

    The method takes tensors or `None` as positional arguments and returns a tuple of tensors. It may read the weights
    of its parts; everything else must be constant. If its parts have no weights, the method is compiled as usual.

    Args:
        parts: paths of the submodules whose weights it reads; some may be `None`.
        results: called with the model and the same arguments; returns shape and dtype of each result.
    """

    def decorate(method: Callable[..., tuple[Tensor, ...]]) -> Any:
        @functools.wraps(method)
        def run(model: Any, *given: Tensor | None) -> Sequence[Tensor]:
            if not is_in_graph():
                return method(model, *given)
            modules = [part for part in map(model.get_submodule, parts) if part is not None]
            weights = [weight for part in modules for weight in part.parameters()]
            if not weights:
                return method(model, *given)
            if model._number is None:
                break_graph("elmo_hf is not installed, or of another version: this method has no custom operator")
                return method(model, *given)
            places = [int(tensor is not None) for tensor in given]
            tensors = [tensor for tensor in given if tensor is not None]
            device = tensors[0].device.type
            dtype = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""
            autocast = dtype.removeprefix("torch.")
            weights = [weight for weight in weights if weight.requires_grad]
            return torch.ops.elmo.part_v2(model._number, method.__name__, autocast, places, tensors, weights)[:-1]

        opaque_method: Any = run
        opaque_method.parts, opaque_method.results = parts, results
        return run

    return decorate


def break_graph(reason: str) -> None:
    """Break the graph under `torch.compile`; with `fullgraph=True` the error shows this reason."""
    if is_in_graph():
        torch._dynamo.graph_break(msg=reason)
