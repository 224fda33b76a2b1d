"""The state of a causal language model between two words, as `generate` carries it."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from .state import ElmoState

# The name by which this version of Transformers carries a cache from step to step.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class ElmoCache(Cache):
    """An [`ElmoState`] as Transformers' cache: what a biLSTM has read, in constant space.

    Unlike the state, which is a value, a cache changes with every forward pass it is given to, as Transformers expects.

    Args:
        state: the state to start from, for instance of an [`ElmoModel`] with `return_state=True`; `None` for zeros.
        words: how many words of each row it has read, as far as the attention mask counts them.

    Attributes:
        state, words: as above, after the last forward pass.
    """

    def __init__(self, state: ElmoState | None = None, words: int = 0) -> None:
        super().__init__(layers=[])
        self.state = state
        self.words = words

    @classmethod
    def of(cls, past: Any) -> "ElmoCache":
        """A cache itself, or one of a state; an empty one of `None`.

        Raises:
            TypeError: another kind of cache.
        """
        if past is None:
            return cls()
        # By their attributes: a checkpoint's code has classes of its own.
        if hasattr(past, "state") and hasattr(past, "words"):
            return past
        if hasattr(past, "hidden") and hasattr(past, "cell"):
            return cls(ElmoState(past.hidden, past.cell))
        raise TypeError(
            f"past_key_values is of type {type(past).__name__}: expected an ElmoCache or an ElmoState, which is all "
            "that a biLSTM carries from word to word"
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The number of words read."""
        return self.words

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.words = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows become those of `beam_idx`, for beam search."""
        if self.state is not None:
            self.state = ElmoState(*(part.index_select(2, beam_idx.to(part.device)) for part in self.state))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.state is not None:
            self.state = ElmoState(*(part.repeat_interleave(repeats, dim=2) for part in self.state))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of `indices`."""
        if self.state is not None:
            self.state = ElmoState(*(part[:, :, indices] for part in self.state))

    def crop(self, tokens_to_remove: int) -> None:
        """Refused, with a `ValueError`: a state cannot unread words."""
        if tokens_to_remove:
            raise ValueError(
                f"crop({tokens_to_remove}): a biLSTM's state cannot unread words, as assisted generation needs it; "
                "generate without an assistant"
            )

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first word."""
        return -1 if self.state is None else self.state.cell.shape[2]

    @property
    def is_croppable(self) -> bool:
        """Always false."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether it has a state."""
        return self.state is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rows={self.batch_size}, words={self.words})"


def direction_state(state: ElmoState, direction: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (layers, rows, P) and cell (layers, rows, H) of one direction, with the rows in the order of `rows`."""
    return state.hidden[:, direction, rows], state.cell[:, direction, rows]


def with_direction(state: ElmoState, direction: int, hidden: Tensor, cell: Tensor) -> ElmoState:
    """The same state with another hidden and cell (layers, rows, width) of one direction."""
    parts = []
    for old, new in zip(state, (hidden, cell), strict=True):
        both = [old[:, 0], old[:, 1]]
        both[direction] = new.to(old.dtype)
        parts.append(torch.stack(both, dim=1))
    return ElmoState(*parts)
