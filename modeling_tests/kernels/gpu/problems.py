"""Random problems for the GPU's recurrence, with the results of the reference."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from elmo_hf.kernels.gpu.workspace import BidirectionalWeights, LstmConstants
from elmo_hf.model.operators import reference_lstm

WIDTH = 3


class Problem:
    """Random inputs of `sizes`, a state of `rows` rows and weights, all of which learn."""

    def __init__(
        self,
        sizes: list[int],
        rows: int,
        clips: tuple[float | None, float | None] = (0.4, 0.3),
        projected: bool = True,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        size = 5 if projected else WIDTH
        shapes = [(sum(sizes), 4)] * 2 + [(2, rows, WIDTH), (2, rows, size)]
        shapes += [(4 * size, 4)] * 2 + [(4 * size,)] * 2 + [(4 * size, WIDTH)] * 2
        shapes += [(WIDTH, size)] * 2 if projected else []
        # Drawn on the CPU: a GPU draws other numbers.
        tensors = [
            torch.randn(shape).to(device, torch.float32 if at == 3 else dtype) for at, shape in enumerate(shapes)
        ]
        self.tensors = [tensor.requires_grad_() for tensor in tensors]
        self.sizes, self.constants = sizes, LstmConstants(*clips, forget_bias=1.0)

    def arguments(self, tensors: list[Tensor] | None = None) -> tuple[Any, ...]:
        """Arguments of `packed_lstm`."""
        tensors = self.tensors if tensors is None else tensors
        pairs = [tuple(tensors[place : place + 2]) for place in range(4, len(tensors), 2)]
        weights = BidirectionalWeights(*pairs[:3], pairs[3] if len(pairs) == 4 else None)
        return tuple(tensors[:2]), self.sizes, tensors[2], tensors[3], weights, self.constants

    def expected(self, tensors: list[Tensor] | None = None) -> list[Tensor]:
        """The results of the reference."""
        inputs, sizes, hidden, cell, weights, constants = self.arguments(tensors)
        outputs, finals = [], []
        for way in range(2):
            w, b, u = (pair[way] for pair in weights[:3])
            p = None if weights.output_weights is None else weights.output_weights[way]
            output, *final = reference_lstm(
                inputs[way], sizes, hidden[way], cell[way],
                lambda x, w=w, b=b: functional.linear(x, w, b),
                lambda h, u=u: functional.linear(h, u),
                None if p is None else lambda o, p=p: functional.linear(o, p),
                **constants._asdict(),
            )  # fmt: skip
            outputs.append(output)
            finals.append(final)
        return [*outputs, *(torch.stack(pair) for pair in zip(*finals, strict=True))]

    def gradients(self, results: Any, upstream: list[Tensor], tensors: list[Tensor] | None = None) -> list[Tensor]:
        """Gradients of all tensors; zero for those that do not affect the results."""
        tensors = self.tensors if tensors is None else tensors
        given = [part.to(result.dtype) for part, result in zip(upstream, results, strict=True)]
        found = torch.autograd.grad(results, tensors, given, allow_unused=True)
        return [torch.zeros_like(tensor) if part is None else part for part, tensor in zip(found, tensors, strict=True)]


def drawn_like(parts: list[Tensor]) -> list[Tensor]:
    """Random tensors of the same shapes, drawn on the CPU."""
    return [torch.randn(part.shape).to(part.device, part.dtype) for part in parts]


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs().max()
    return float(difference.detach() / expected.detach().double().abs().max().clamp(min=1e-9))


def assert_close(found: Any, expected: Any, bound: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) <= bound
