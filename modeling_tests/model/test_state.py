"""The state between two batches."""

import pytest
import torch

from elmo_hf import ElmoState


def state_of(rows: int) -> ElmoState:
    return ElmoState(torch.ones(2, 2, rows, 3), torch.ones(2, 2, rows, 4))


def test_chosen_rows_are_reset() -> None:
    rows = torch.tensor([[True, False, False], [False, False, True]])
    fresh = state_of(3).reset(rows)
    for part in fresh:
        assert part.any(-1).all(0).tolist() == (~rows).tolist()


@pytest.mark.parametrize(
    "rows", [torch.zeros(3, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 3)]
)
def test_wrong_rows_are_named(rows: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"rows.*\(2.*3\).*torch\.bool"):
        state_of(3).reset(rows)
