"""Base classes of the parts of a word layer: each maps some integers of a word to a vector."""

from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY_REMEDY = (
    "the model's vocab_size is not the tokenizer's. Load the tokenizer that belongs to the model, or call "
    "resize_token_embeddings"
)


def check_ids(ids: Tensor, count: int, subject: str, remedy: str) -> None:
    """Raise a `ValueError`, beginning with `subject` and the id, if an id is not in 0..`count` - 1."""
    if torch.compiler.is_compiling() or not ids.numel():
        return
    # One transfer, so that a GPU is synchronized only once.
    low, high = torch.stack(ids.aminmax()).tolist()
    if low < 0 or high >= count:
        raise ValueError(f"{subject} {low if low < 0 else high}: expected ids from 0 to {count - 1}; {remedy}")


def scatter_words(vectors: Tensor, mask: Tensor) -> Tensor:
    """Scatter vectors [n, width] to the n true positions of `mask` (batch, words): (batch, words, width), zero
    elsewhere."""
    padded = vectors.new_zeros(*mask.shape, vectors.shape[-1])
    return padded.masked_scatter(mask.unsqueeze(-1), vectors)


class ElmoWordPart(nn.Module):
    """Part of a word layer: (batch, words, ...) ids -> (batch, words, output_size), independent of the context.

    Attributes:
        input_names: arguments of `ElmoModel.forward` that it reads.
        output_size: width of a word's vector.
    """

    input_names: tuple[str, ...]
    output_size: int

    def __call__(self, *inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Call `forward`; `mask` may also be the last positional argument."""
        if mask is None:
            inputs, mask = inputs[:-1], inputs[-1]
        return super().__call__(*inputs, mask=mask)

    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """Encode the words where `mask` is true; the others become zero.

        Args:
            inputs: (batch, words, ...), any integer dtype, one for each of `input_names`.
            mask: (batch, words), bool.

        Returns:
            (batch, words, output_size).

        Raises:
            ValueError: a wrong shape, or an id outside the table.
        """
        return scatter_words(self.encode_rows(self.rows(*inputs, mask=mask)), mask)

    def rows(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, integers], int64: inputs of the n words where `mask` is true; arguments and errors as in `forward`."""
        raise NotImplementedError

    def checked(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Check the integers of n words, [n, integers]; returns the arguments of `encode_checked`.

        Raises:
            ValueError: an id outside the table.
        """
        raise NotImplementedError

    def encode_checked(self, *parts: Tensor) -> Tensor:
        """Results of `checked` -> [n, output_size]."""
        raise NotImplementedError

    def encode_rows(self, rows: Tensor) -> Tensor:
        """[n, integers] -> [n, output_size]; errors as in `forward`."""
        return self.encode_checked(*self.checked(rows))


class ElmoTable(ElmoWordPart):
    """Part that looks up one id per word in an embedding table.

    Attributes:
        table_name: name of the submodule that is the table.
        remedy: end of the error message for ids outside the table.
    """

    table_name: str
    remedy: str

    def rows(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, 1], int64: ids of the n words where `mask` is true."""
        return inputs[0][mask].long().unsqueeze(1)

    def checked(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Check ids [n, 1] and return them as [n]; errors as in `forward`."""
        ids = rows.squeeze(1)
        # Read from the weight, because PEFT replaces the table by a wrapper module.
        check_ids(ids, len(self._table.weight), f"{self.input_names[0]} holds", self.remedy)
        return (ids,)

    def encode_checked(self, *parts: Tensor) -> Tensor:
        """(n,) int64 ids of n words -> (n, output_size)."""
        return self._table(*parts)

    @property
    def _table(self) -> Any:
        return getattr(self, self.table_name)
