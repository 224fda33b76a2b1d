"""Cache of a causal biLSTM language model for `generate`."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from .state import ElmoState

# Name of the cache argument and output in this version of Transformers.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class ElmoCache(Cache):
    """An [`ElmoState`] wrapped as a Transformers cache, of constant size.

    Unlike the state, which is immutable, a cache is updated in place by every forward pass, as Transformers expects.

    Args:
        state: the initial state, for instance of an [`ElmoModel`] with `return_state=True`; `None` for zeros.
        words: number of words of each row read so far, padding included: the columns of the attention mask.

    Attributes:
        state, words: as above, after the last forward pass.
    """

    def __init__(self, state: ElmoState | None = None, words: int = 0) -> None:
        super().__init__(layers=[])
        self.state = state
        self.words = words

    @classmethod
    def of(cls, past: Any) -> "ElmoCache":
        """Convert an `ElmoCache`, an `ElmoState` or `None` (an empty cache) to a cache.

        Raises:
            TypeError: another kind of cache.
        """
        if past is None:
            return cls()
        # Duck typing: a checkpoint's code has its own copies of the classes.
        if hasattr(past, "state") and hasattr(past, "words"):
            return past
        if hasattr(past, "hidden") and hasattr(past, "cell"):
            return cls(ElmoState(past.hidden, past.cell))
        raise TypeError(
            f"past_key_values is of type {type(past).__name__}: expected an ElmoCache or an ElmoState, the cache of a "
            "biLSTM"
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of words read."""
        return self.words

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return -1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Empty the cache."""
        self.state, self.words = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows by `beam_idx`, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.state is not None:
            self.state = ElmoState(*(part.repeat_interleave(repeats, dim=2) for part in self.state))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of `indices`."""
        if self.state is not None:
            self.state = ElmoState(*(part[:, :, indices.to(part.device)] for part in self.state))

    def crop(self, tokens_to_remove: int) -> None:
        """Raise a `ValueError` unless `tokens_to_remove` is 0: a state cannot be rolled back."""
        if tokens_to_remove:
            raise ValueError(
                f"crop({tokens_to_remove}): expected 0, because a biLSTM's state cannot unread words, which assisted "
                "generation needs; generate without an assistant"
            )

    @property
    def batch_size(self) -> int:
        """Number of rows, or -1 before the first word."""
        return -1 if self.state is None else self.state.cell.shape[2]

    @property
    def is_croppable(self) -> bool:
        """Always false: a state cannot be rolled back."""
        return False

    @property
    def is_initialized(self) -> bool:
        """True once the cache has a state."""
        return self.state is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rows={self.batch_size}, words={self.words})"


def direction_state(state: ElmoState, direction: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden (layers, rows, P) and cell (layers, rows, H) of one direction, in the order of the indices `rows`."""
    return state.hidden[:, direction, rows], state.cell[:, direction, rows]


def with_direction(state: ElmoState, direction: int, hidden: Tensor, cell: Tensor) -> ElmoState:
    """Replace hidden and cell (layers, rows, width) of one direction of a state."""
    parts = []
    for old, new in zip(state, (hidden, cell), strict=True):
        both = [old[:, 0], old[:, 1]]
        both[direction] = new.to(old.dtype)
        parts.append(torch.stack(both, dim=1))
    return ElmoState(*parts)
