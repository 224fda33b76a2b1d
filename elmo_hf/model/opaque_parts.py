"""Parts of a model as an operator that `torch.compile` does not look into.

What a model computes depends on the data: it packs the real words of a batch, encodes each distinct word once, walks
over sentences. A compiler would make a graph of every length, and stop at the first question about the data. For it,
such a method of a model is one operator with known shapes; around it compile the mixes, the classifiers and the loss.

The operator is the installed package's (`elmo_hf/kernels/opaque.py`), one for all copies of this code in a process. It
finds the model by a number and calls its method, whichever copy that is of. Without the package such a method is in no
graph.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Results = Callable[..., list[tuple[Sequence[Any], torch.dtype]]]


def opaque(parts: Sequence[str], results: Results) -> Callable[[Any], Any]:
    """Decorate a model's method, which `torch.compile` then takes for one operator.

    The method takes tensors or `None` by position and returns a tuple of tensors. What it reads beside is constant, but
    for the weights of its parts. A model whose parts have no weights has nothing to hide, and is looked into.

    Args:
        parts: paths of the submodules whose weights it reads; some may be `None`.
        results: of the model and the same tensors: the shape and dtype of every result.
    """

    def decorate(method: Callable[..., tuple[Tensor, ...]]) -> Any:
        @functools.wraps(method)
        def run(model: Any, *given: Tensor | None) -> Sequence[Tensor]:
            if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
                return method(model, *given)
            modules = [part for part in map(model.get_submodule, parts) if part is not None]
            weights = [weight for part in modules for weight in part.parameters()]
            if not weights:
                return method(model, *given)
            if model._number is None:
                break_graph("elmo_hf is not installed, or of another version: this part of a model has no operator")
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
    """Say under `torch.compile` why what follows is in no graph; `fullgraph=True` refuses it with these words."""
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        torch._dynamo.graph_break(msg=reason)
