"""Words from their characters: embedding, convolutions, highways, projection (paper, section 3.4).

Source: bilm-tf `BidirectionalLanguageModelGraph._build_word_char_embeddings`, AllenNLP `_ElmoCharacterEncoder`.
"""

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .initialization_elmo import starting_with

# Distinct words encoded at a time: bounds the convolutions' memory on large batches (2048 filters x 20 positions x
# 4096 words are 0.7 GB in float32) and costs nothing on usual ones.
WORDS_AT_A_TIME = 4096


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a matrix of integers, and where each row went: `rows == distinct[inverse]`.

    Args:
        rows: (n, length), int64.

    Returns:
        distinct (m, length) in no meaningful order; inverse (n,) of indices into it.
    """
    # Sorting one 64-bit hash a row is many times faster than sorting rows. The hash is a polynomial modulo 2 ** 64;
    # what it yields is compared, and a collision only costs the slow way.
    multipliers = torch.full((rows.shape[1],), 0x5851F42D4C957F2D, dtype=torch.int64, device=rows.device).cumprod(0)
    hashes, inverse = torch.unique((rows * multipliers).sum(dim=1), return_inverse=True)
    some_row = torch.zeros_like(hashes).scatter_(0, inverse, torch.arange(len(rows), device=rows.device))
    distinct = rows[some_row]
    if not torch.equal(distinct[inverse], rows):
        distinct, inverse = torch.unique(rows, dim=0, return_inverse=True)
    return distinct, inverse


class ElmoHighway(nn.Module):
    """y = g * relu(nonlinear(x)) + (1 - g) * x with g = sigmoid(gate(x)).

    `gate` has the sign of bilm-tf's `W_carry`, which despite its name opens the *non-linear* branch.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nonlinear = starting_with(nn.Linear(width, width), "normal", width**-0.5)
        # The bias lets the input through at first.
        self.gate = starting_with(nn.Linear(width, width), "normal", width**-0.5, bias=-2.0)

    def forward(self, inputs: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(inputs))
        return gate * torch.relu(self.nonlinear(inputs)) + (1 - gate) * inputs


class ElmoCharacterEmbeddings(nn.Module):
    """(batch, words, characters) ids -> (batch, words, projection_size) vectors independent of their context."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.max_characters_per_word = config.max_characters_per_word
        self.widest_filter = max(width for width, _ in config.character_filters)
        self.activation = torch.relu if config.character_activation == "relu" else torch.tanh
        size = config.character_embedding_size
        self.character_embeddings = starting_with(
            nn.Embedding(config.num_characters, size, padding_idx=0), "uniform", 1.0
        )
        self.convolutions = nn.ModuleList(
            starting_with(nn.Conv1d(size, count, width), "uniform", 0.05)
            if config.character_activation == "relu"
            else starting_with(nn.Conv1d(size, count, width), "normal", (width * size) ** -0.5)
            for width, count in config.character_filters
        )
        self.highways = nn.ModuleList(ElmoHighway(config.num_filters) for _ in range(config.num_highway_layers))
        self.projection_size = config.projection_size
        self.projection = None
        if config.character_projection:
            linear = nn.Linear(config.num_filters, config.projection_size)
            self.projection = starting_with(linear, "normal", config.num_filters**-0.5)

    def forward(self, character_ids: Tensor, mask: Tensor) -> Tensor:
        """Encode the words that `mask` marks; the others become zero.

        Args:
            character_ids: (batch, words, max_characters_per_word), any integer dtype.
            mask: (batch, words), bool.

        Raises:
            ValueError: a wrong shape or an id outside the character table.
        """
        if character_ids.dim() != 3 or character_ids.shape[-1] != self.max_characters_per_word:
            raise ValueError(
                f"character_ids has shape {tuple(character_ids.shape)}: expected (batch, words, "
                f"{self.max_characters_per_word}); the tokenizer's max_characters_per_word must be the model's"
            )
        rows = character_ids[mask].long()  # [n, characters]
        if len(rows) == 0:
            vectors = self.character_embeddings.weight.new_zeros(0, self.projection_size)
        else:
            distinct, inverse = distinct_rows(rows)
            self._check_range(distinct)
            distinct = self._trim(distinct)
            encoded = [self.encode(part) for part in distinct.split(WORDS_AT_A_TIME)]
            vectors = torch.cat(encoded).index_select(0, inverse)  # [n, projection_size]
        padded = vectors.new_zeros(*mask.shape, vectors.shape[-1])
        return padded.masked_scatter(mask.unsqueeze(-1), vectors)

    def encode(self, rows: Tensor) -> Tensor:
        """(n, characters) int64 ids of n words -> (n, projection_size)."""
        characters = self.character_embeddings(rows).transpose(1, 2)  # [n, character size, characters]
        filters = [self.activation(convolution(characters).amax(dim=-1)) for convolution in self.convolutions]
        words = torch.cat(filters, dim=-1)  # [n, filters]
        for highway in self.highways:
            words = highway(words)
        return words if self.projection is None else self.projection(words)

    def _trim(self, rows: Tensor) -> Tensor:
        """Cut columns that repeat the last one in every row: they add no new window to the maximum.

        Windows that lie wholly in the repeated tail are all alike, so one window of the widest filter behind the last
        differing column stands for all of them. Exact, and most of the work: words are short, rows are not.
        """
        differs = (rows != rows[:, -1:]).any(dim=0).nonzero()
        last = int(differs[-1]) if len(differs) else -1
        return rows[:, : last + 1 + self.widest_filter]

    def _check_range(self, rows: Tensor) -> None:
        low, high = int(rows.min()), int(rows.max())
        count = self.character_embeddings.num_embeddings
        if low < 0 or high >= count:
            raise ValueError(
                f"character_ids holds {low if low < 0 else high}: expected ids from 0 to {count - 1}; make them with "
                "the tokenizer that belongs to the model"
            )
