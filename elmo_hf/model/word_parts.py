"""What the parts of a word layer share: they read some integers of each word, check them, and make a vector of them."""

from typing import Any

import torch
from torch import Tensor, nn

THE_RIGHT_VOCABULARY = (
    "the model's vocab_size is not the tokenizer's. Load the tokenizer that belongs to the model, or call "
    "resize_token_embeddings"
)


def check_ids(ids: Tensor, count: int, subject: str, remedy: str) -> None:
    """Refuse ids that are not from 0 to `count` - 1: a `ValueError` begins with `subject` and the first such id."""
    if torch.compiler.is_compiling() or not ids.numel():
        return
    # One question, for which a GPU is waited for once.
    low, high = torch.stack(ids.aminmax()).tolist()
    if low < 0 or high >= count:
        raise ValueError(f"{subject} {low if low < 0 else high}: expected ids from 0 to {count - 1}; {remedy}")


def in_places(vectors: Tensor, mask: Tensor) -> Tensor:
    """[n, width] vectors of the n words that `mask` (batch, words) marks -> (batch, words, width), zero elsewhere."""
    padded = vectors.new_zeros(*mask.shape, vectors.shape[-1])
    return padded.masked_scatter(mask.unsqueeze(-1), vectors)


class ElmoWordPart(nn.Module):
    """(batch, words, ...) ids -> (batch, words, output_size) vectors independent of their context.

    Attributes:
        input_names: the arguments of a model that it reads.
        output_size: width of a word's vector.
    """

    input_names: tuple[str, ...]
    output_size: int

    def __call__(self, *inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `forward`; `mask` may come by position, too, behind the inputs."""
        if mask is None:
            inputs, mask = inputs[:-1], inputs[-1]
        return super().__call__(*inputs, mask=mask)

    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """Encode the words that `mask` marks; the others become zero.

        Args:
            inputs: (batch, words, ...), any integer dtype, one for each of `input_names`.
            mask: (batch, words), bool.

        Raises:
            ValueError: a wrong shape, or an id outside the table.
        """
        return in_places(self.encode_rows(self.rows(*inputs, mask=mask)), mask)

    def rows(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, integers], int64: what is read of the n words that `mask` marks; shapes and errors as in `forward`."""
        raise NotImplementedError

    def checked(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Check the integers of n words, [n, integers], and return what `encode_checked` reads; errors as there."""
        raise NotImplementedError

    def encode_checked(self, *parts: Tensor) -> Tensor:
        """What `checked` returned -> [n, output_size]."""
        raise NotImplementedError

    def encode_rows(self, rows: Tensor) -> Tensor:
        """[n, integers] -> [n, output_size]; errors as in `forward`."""
        return self.encode_checked(*self.checked(rows))


class ElmoTable(ElmoWordPart):
    """A part that reads one id of each word, its row in a table.

    Attributes:
        table_name: the submodule that is the table.
        remedy: against ids outside it.
    """

    table_name: str
    remedy: str

    def rows(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, 1], int64: the ids of the n words that `mask` marks."""
        return inputs[0][mask].long().unsqueeze(1)

    def checked(self, rows: Tensor) -> tuple[Tensor, ...]:
        """[n, 1] ids -> [n], all of them in the table; errors as in `forward`."""
        ids = rows.squeeze(1)
        # By its weight: PEFT puts a module of its own in the table's place.
        check_ids(ids, len(self._table.weight), f"{self.input_names[0]} holds", self.remedy)
        return (ids,)

    def encode_checked(self, *parts: Tensor) -> Tensor:
        """(n,) int64 ids of n words -> (n, output_size)."""
        return self._table(*parts)

    @property
    def _table(self) -> Any:
        return getattr(self, self.table_name)
