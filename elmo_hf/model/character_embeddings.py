"""Character CNN: character embeddings, convolutions, highway layers, projection (paper, section 3.4).

Source: bilm-tf `BidirectionalLanguageModelGraph._build_word_char_embeddings`, AllenNLP `_ElmoCharacterEncoder`.
"""

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .initialization import starting_with
from .layer_norm import ElmoLayerNorm
from .operators import character_maxima, fast_linear
from .word_parts import ElmoWordPart, scatter_words

# Distinct words per chunk. Bounds the convolutions' memory on large batches: 2048 filters x 20 positions x 4096 words
# are 0.7 GB in float32.
WORDS_AT_A_TIME = 4096


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Deduplicate the rows of a matrix of integers: `rows == distinct[inverse]`.

    Args:
        rows: (n, length), int64.

    Returns:
        distinct (m, length), in unspecified order; inverse (n,), int64, indices into it.
    """
    # Sorting one 64-bit hash per row is many times faster than sorting rows. The hash is a polynomial modulo 2 ** 64.
    # The result is verified; after a hash collision, rows are sorted instead.
    multipliers = torch.full((rows.shape[1],), 0x5851F42D4C957F2D, dtype=torch.int64, device=rows.device).cumprod(0)
    hashes, inverse = torch.unique((rows * multipliers).sum(dim=1), return_inverse=True)
    some_row = torch.zeros_like(hashes).scatter_(0, inverse, torch.arange(len(rows), device=rows.device))
    distinct = rows[some_row]
    if not torch.equal(distinct[inverse], rows):
        distinct, inverse = torch.unique(rows, dim=0, return_inverse=True)
    return distinct, inverse


class ElmoHighway(nn.Module):
    """y = g * relu(nonlinear(x)) + (1 - g) * x with g = sigmoid(gate(x)).

    `gate` has the sign of bilm-tf's `W_carry`, which despite its name weighs the *non-linear* branch.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nonlinear = starting_with(nn.Linear(width, width), "normal", width**-0.5)
        # As in bilm-tf: a negative bias makes the layer start near the identity.
        self.gate = starting_with(nn.Linear(width, width), "normal", width**-0.5, bias=-2.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        kernels = fast_linear(self.nonlinear), fast_linear(self.gate)
        nonlinear = (kernels[0] or self.nonlinear)(inputs)
        gate = (kernels[1] or self.gate)(inputs)
        if None not in kernels and not inputs.requires_grad:
            # In place: kernels return new tensors, and autograd needs neither.
            return nonlinear.relu_().sub_(inputs).mul_(gate.sigmoid_()).add_(inputs)
        gate = torch.sigmoid(gate)
        return gate * torch.relu(nonlinear) + (1 - gate) * inputs


class ElmoCharacterEmbeddings(ElmoWordPart):
    """Context-independent word vectors from characters: (batch, words, characters) -> (batch, words, output_size).

    `output_size` is `projection_size`, or the number of filters if characters are concatenated with other word parts
    and projected together with them.
    """

    input_names = ("character_ids",)

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
        self.projects_before_highways = config.character_projection_location == "after_cnn"
        projected_first = config.character_projection and self.projects_before_highways
        width = config.projection_size if projected_first else config.num_filters
        self.highways = nn.ModuleList(ElmoHighway(width) for _ in range(config.num_highway_layers))
        self.output_size = config.projection_size if config.character_projection else config.num_filters
        self.projection = None
        if config.character_projection:
            linear = nn.Linear(config.num_filters, config.projection_size)
            self.projection = starting_with(linear, "normal", config.num_filters**-0.5)
        self.layer_norm = None
        if config.character_layer_norm:
            self.layer_norm = ElmoLayerNorm(self.output_size, config.layer_norm_epsilon)

    def real_words(self, character_ids: Tensor) -> Tensor:
        """(batch, words, characters) ids -> (batch, words), bool: words that are not all zeros."""
        return character_ids.ne(0).any(dim=-1)

    def forward(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """Encode the words where `mask` is true, each distinct word once; the others become zero."""
        distinct, inverse = distinct_rows(self.rows(*inputs, mask=mask))
        return scatter_words(self.encode_rows(distinct).index_select(0, inverse), mask)

    def rows(self, *inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, characters], int64: character ids of the n words where `mask` is true.

        Args:
            inputs: one tensor, (batch, words, max_characters_per_word).

        Raises:
            ValueError: another shape.
        """
        (character_ids,) = inputs
        if character_ids.dim() != 3 or character_ids.shape[-1] != self.max_characters_per_word:
            raise ValueError(
                f"character_ids has shape {tuple(character_ids.shape)}: expected (batch, words, "
                f"{self.max_characters_per_word}); the tokenizer's max_characters_per_word must be the model's"
            )
        return character_ids[mask].long()

    def encode_checked(self, *parts: Tensor) -> Tensor:
        """[n, characters] from `checked` -> [n, output_size], in chunks."""
        (rows,) = parts
        if not len(rows):
            return self.character_embeddings.weight.new_zeros(0, self.output_size)
        encoded = [self.encode(part) for part in rows.split(WORDS_AT_A_TIME)]
        return torch.cat(encoded) if len(encoded) > 1 else encoded[0]

    def encode(self, rows: Tensor) -> Tensor:
        """(n, characters) int64 ids of n words -> (n, output_size)."""
        words = self.activation(character_maxima(rows, self.character_embeddings, list(self.convolutions)))
        dtype = self.character_embeddings.weight.dtype
        if words.dtype != dtype and not self._takes_any_dtype():
            words = words.to(dtype)
        if self.projection is not None and self.projects_before_highways:
            words = (fast_linear(self.projection) or self.projection)(words)
        for highway in self.highways:
            words = highway(words)
        if self.projection is not None and not self.projects_before_highways:
            words = (fast_linear(self.projection) or self.projection)(words)
        if words.dtype.itemsize > dtype.itemsize:
            words = words.to(dtype)
        return words if self.layer_norm is None else self.layer_norm(words)

    def _takes_any_dtype(self) -> bool:
        """True if all layers after the convolutions run by kernels, which accept inputs of any floating dtype."""
        layers: list[nn.Module] = [] if self.projection is None else [self.projection]
        for highway in self.highways:
            assert isinstance(highway, ElmoHighway)
            layers += [highway.nonlinear, highway.gate]
        return all(fast_linear(layer) is not None for layer in layers)

    def checked(self, rows: Tensor) -> tuple[Tensor]:
        """Check the ids and cut the padding that all rows share at their end.

        Exact: windows inside that constant tail are all equal, so one window of the widest filter after the last
        differing column gives the same maximum. Saves most of the work, because words are much shorter than rows.

        Raises:
            ValueError: an id outside the character table.
        """
        if not len(rows):
            return (rows,)
        columns = torch.arange(1, rows.shape[1] + 1, device=rows.device)
        needed = ((rows != rows[:, -1:]).any(dim=0) * columns).amax()
        # One transfer, so that a GPU is synchronized only once.
        low, high, length = torch.stack([*rows.aminmax(), needed]).tolist()
        count = len(self.character_embeddings.weight)
        if low < 0 or high >= count:
            raise ValueError(
                f"character_ids holds {low if low < 0 else high}: expected ids from 0 to {count - 1}; make them with "
                "the tokenizer that belongs to the model"
            )
        return (rows[:, : length + self.widest_filter],)
