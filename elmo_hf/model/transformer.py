"""Transformer ELMo: a forward and a backward stack of causal Transformer layers over the same word vectors.

Peters et al. 2018b, "Dissecting contextual word embeddings", section 3. Source: AllenNLP
`bidirectional_lm_transformer.py`.

Each direction works in its own reading order, padding behind its last word. Then "sees the words behind it only" is one
and the same triangle for both, and no word sees padding, whatever side the padding is on in the batch.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_elmo import ElmoConfig
from .initialization import glorot_bound, starting_with
from .layer_norm import ElmoLayerNorm


def glorot_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as the original's."""
    return starting_with(nn.Linear(inputs, outputs), "uniform", glorot_bound(inputs, outputs))


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as it is defined, under Transformers' name and with the signature of all its implementations.

    Args:
        module: with `is_causal`: whether position i sees positions 0..i only where there is no mask.
        query, key, value: (rows, heads, steps, head width).
        attention_mask: broadcast to (rows, heads, steps, steps), bool, true where a query (third axis) sees a key;
            every query sees one at least. `None` for all keys that `module.is_causal` lets it see.
        scaling: factor of the scores.
        dropout: probability of a share to be dropped.

    Returns:
        (rows, steps, heads, head width), and the shares (rows, heads, steps, steps).
    """
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is None and module.is_causal:
        steps = scores.shape[-1]
        attention_mask = torch.ones(steps, steps, dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    wide = torch.promote_types(scores.dtype, torch.float32)
    shares = functional.dropout(scores.softmax(dim=-1, dtype=wide).to(value.dtype), dropout)
    return (shares @ value).transpose(1, 2).contiguous(), shares


class ElmoPositions(nn.Module):
    """Sinusoids of each position: sin(p / 10000 ** (2i / P)) in column 2i, the cosine in column 2i + 1.

    Saved with the weights: a sine of a large number in float32 differs in its last bits from library to library, and a
    converted checkpoint keeps its own.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.encodings: Tensor
        self.register_buffer("encodings", torch.empty(config.max_position_embeddings, config.projection_size))
        self.reset_weights()

    def reset_weights(self) -> None:
        """Compute the sinusoids anew, rounded to float32 at each step as the original's; loaded ones stay."""
        positions, width = self.encodings.shape
        frequencies = torch.exp(torch.arange(0, width, 2).float() * -(math.log(10000.0) / width))
        angles = torch.arange(positions).float()[:, None] * frequencies  # [positions, width / 2]
        init.copy_(self.encodings, torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width])

    def forward(self, positions: Tensor) -> Tensor:
        """(rows, steps), int64 -> (rows, steps, width)."""
        return self.encodings[positions]


class ElmoSelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, and to what is behind each position only if `config.causal`."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.config = config
        self.is_causal = config.causal
        self.head_width = config.projection_size // config.num_attention_heads
        width = config.projection_size
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (glorot_linear(width, width) for _ in range(4))

    def forward(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None,
        with_shares: bool = False,
        cache: Cache | None = None,
        layer_index: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """(rows, steps, P) -> (rows, steps, P), and if asked for the shares; the mask as in `eager_attention_forward`.

        With a cache, keys are those read before, of this layer, and then the inputs'; they are added to it.
        """
        heads = (*inputs.shape[:2], -1, self.head_width)
        query, key, value = (
            product(inputs).view(heads).transpose(1, 2) for product in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            key, value = cache.update(key, value, layer_index)
        attend: Any = eager_attention_forward
        if not with_shares:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        outputs, shares = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.head_width**-0.5,
        )
        return self.o_proj(outputs.reshape(inputs.shape)), shares if with_shares else None


class ElmoFeedForward(nn.Module):
    """Two linear maps with relu between them, of every position for itself."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.config = config
        self.up_proj = glorot_linear(config.projection_size, config.feed_forward_size)
        self.down_proj = glorot_linear(config.feed_forward_size, config.projection_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """(rows, steps, P) -> (rows, steps, P)."""
        inner = torch.relu(self.up_proj(inputs))
        return self.down_proj(functional.dropout(inner, self.config.transformer_dropout, self.training))


class ElmoTransformerBlock(nn.Module):
    """One direction of one layer: attention and feed-forward layer, each added to what it read normalized."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)
        self.attention = ElmoSelfAttention(config)
        self.feed_forward_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)
        self.feed_forward = ElmoFeedForward(config)

    def forward(self, inputs: Tensor, attention_mask: Tensor | None, *args: Any) -> tuple[Tensor, Tensor | None]:
        """As [`ElmoSelfAttention`]."""
        attended, shares = self.attention(self.attention_norm(inputs), attention_mask, *args)
        hidden = inputs + self._drop(attended)
        return hidden + self._drop(self.feed_forward(self.feed_forward_norm(hidden))), shares

    def _drop(self, added: Tensor) -> Tensor:
        return functional.dropout(added, self.config.transformer_dropout, self.training)


class ElmoTransformerLayer(GradientCheckpointingLayer):
    """A forward and a backward block side by side; neither sees the other."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.forward_block = ElmoTransformerBlock(config)
        self.backward_block = ElmoTransformerBlock(config)

    def forward(
        self,
        forward_inputs: Tensor,
        backward_inputs: Tensor,
        attention_mask: Tensor | None,
        with_shares: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Both (rows, steps, P), each in its own reading order, to outputs alike; if asked for, both blocks' shares."""
        forward, forward_shares = self.forward_block(forward_inputs, attention_mask, with_shares)
        backward, backward_shares = self.backward_block(backward_inputs, attention_mask, with_shares)
        return forward, backward, forward_shares, backward_shares


class ElmoTransformerEncoder(nn.Module):
    """The two stacks of Transformer layers over word vectors.

    Reads each sentence whole and carries nothing from one batch to the next.
    """

    carries_state = False

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = ElmoPositions(config)
        self.layers = nn.ModuleList(ElmoTransformerLayer(config) for _ in range(config.num_hidden_layers))
        # Of the top layer only; the layers below are the sums as they run.
        self.forward_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)
        self.backward_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)

    def forward(
        self, words: Tensor, mask: Tensor, initial_state: Any = None, with_shares: bool = False
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Run all layers.

        Args:
            words: (batch, words, P), zero at padding.
            mask: (batch, words), bool: real words, with padding on either side or between them.
            initial_state: must be `None`.
            with_shares: also return the attention.

        Returns:
            N + 1 layers (batch, words, 2P), zero at padding, the words themselves first, without positions. And `None`,
            for the state; or the shares, N times (batch, 2 * num_attention_heads, words, words): first the heads of the
            forward direction, then those of the backward one; in the third axis the word that reads, in the fourth the
            word read. Zero where padding reads or is read.

        Raises:
            ValueError: a sentence longer than `max_position_embeddings`, or a state.
        """
        if initial_state is not None:
            raise ValueError(
                "initial_state was given to a Transformer, which has no state: it reads each sentence whole and by "
                "itself; leave initial_state out"
            )
        layers, attentions = [torch.cat([words, words], dim=-1)], []
        if not mask.numel():
            nothing = words.new_zeros(len(mask), 2 * self.config.num_attention_heads, *(2 * mask.shape[1:]))
            return layers * (1 + len(self.layers)), [nothing] * len(self.layers) if with_shares else None
        lengths = mask.sum(dim=1)
        longest = int(lengths.max())
        inputs = self.with_positions(words, (mask.cumsum(dim=1) - 1).clamp(min=0), longest)
        # Columns in reading order, padding behind: forwards, and backwards within the length of each row.
        forward = torch.argsort(mask.logical_not().to(torch.uint8), dim=1, stable=True)  # [batch, words]
        step = torch.arange(mask.shape[1], device=mask.device)
        backward = forward.gather(1, torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step))
        # Where every row has padding at the end, nothing is computed for it.
        steps = max(longest, 1)
        columns = forward[:, :steps], backward[:, :steps]
        orders = [order[:, :, None].expand(-1, -1, words.shape[2]) for order in columns]
        in_order = (inputs.gather(1, orders[0]), inputs.gather(1, orders[1]))
        shares: list[tuple[Tensor, Tensor]] | None = [] if with_shares else None
        outputs = self.run_layers(*in_order, step[:steps] < lengths[:, None], shares)
        for pair in outputs:
            placed = (
                torch.zeros_like(words, dtype=part.dtype).scatter(1, order, part)
                for order, part in zip(orders, pair, strict=True)
            )
            layers.append(torch.cat(list(placed), dim=-1))
        for both in shares or ():
            of_words = [_of_words(part, order, mask) for part, order in zip(both, columns, strict=True)]
            attentions.append(torch.cat(of_words, dim=1))
        return layers, attentions if with_shares else None

    def empty_cache(self) -> Cache:
        """Room for the keys and values of one direction."""
        return DynamicCache()

    def read_direction(
        self, words: Tensor, mask: Tensor, direction: int, cache: Cache | None, with_shares: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run one direction over words that stand in its own reading order.

        Args:
            words: (batch, words, P), zero at padding.
            mask: (batch, words before and words), bool: what is real, of the words in the cache and of these.
            direction: 0 for the forward blocks; 1 for the backward ones, which must see the whole sentence.
            cache: the keys and values of the words before; those of these words are added.

        Returns:
            N + 1 layers (batch, words, P), zero at padding, the words themselves first; and if asked for the shares, N
            times (batch, num_attention_heads, words, words before and words), zero where padding reads.

        Raises:
            ValueError: a sentence longer than `max_position_embeddings`.
        """
        lengths, count = mask.sum(dim=1, keepdim=True), words.shape[1]
        if not words.numel():
            nothing = words.new_zeros(len(mask), self.config.num_attention_heads, count, mask.shape[1])
            return [words] * (1 + len(self.layers)), [nothing] * (len(self.layers) if with_shares else 0)
        places = (mask.cumsum(dim=1) - 1)[:, -count:]  # [batch, words], in reading order
        positions = places if direction == 0 else lengths - 1 - places
        hidden = self.with_positions(words, positions.clamp(min=0), int(lengths.max()))
        seen = torch.arange(mask.shape[1], device=mask.device)
        reader = seen[-count:, None]
        # Padding sees itself, because whoever reads must see something; what comes of that is set to zero.
        sees = ((seen <= reader) & mask[:, None, :] | (seen == reader)).unsqueeze(1)  # [batch, 1, words, all words]
        real = mask[:, -count:, None]
        name, home = ("forward", "backward")[direction], words.device
        layers, attentions = [words], []
        for number, layer in enumerate(self.layers):
            block = getattr(layer, f"{name}_block")
            if layer.gradient_checkpointing and self.training:
                checkpointed: Any = layer._gradient_checkpointing_func
                hidden, shares = checkpointed(block.__call__, hidden, sees, with_shares)
            else:
                hidden, shares = block(hidden, sees, with_shares, cache, number)
            if with_shares:
                attentions.append(shares.to(home) * real.unsqueeze(1))
            hidden = hidden.to(home)
            top = hidden
            if number + 1 == len(self.layers):
                top = getattr(self, f"{name}_norm")(hidden).to(home)
            layers.append(top * real)
        return layers, attentions

    def run_layers(
        self,
        forward: Tensor,
        backward: Tensor,
        real: Tensor,
        shares: list[tuple[Tensor, Tensor]] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Run all layers over words that have their positions.

        Args:
            forward, backward: (rows, steps, P), each in its own reading order.
            real: (rows, steps), bool, true from the first step to the row's last word.
            shares: takes what both directions attended to, (rows, heads, steps, steps) each, of every layer.

        Returns:
            For each layer the outputs of both directions, shaped and ordered as the inputs, zero at padding.
        """
        home = forward.device
        # A causal layer needs no mask: padding stands behind all that could see it. A plain one sees words only, and
        # where there is no word at all, anything: what comes of that is set to zero.
        attention_mask = None
        if not self.config.causal:
            attention_mask = (real | ~real.any(dim=1, keepdim=True))[:, None, None, :]  # [rows, 1, 1, steps]
            attention_mask = attention_mask.expand(-1, 1, real.shape[1], -1)
        outputs = []
        for number, layer in enumerate(self.layers, 1):
            # A layer may live on another device than the words (device_map); its results come home.
            forward, backward, *attended = layer(forward, backward, attention_mask, shares is not None)
            forward, backward = forward.to(home), backward.to(home)
            if shares is not None:
                shares.append((attended[0].to(home), attended[1].to(home)))
            pair = (forward, backward)
            if number == len(self.layers):
                pair = (self.forward_norm(forward).to(home), self.backward_norm(backward).to(home))
            outputs.append((pair[0] * real.unsqueeze(-1), pair[1] * real.unsqueeze(-1)))
        return outputs

    def with_positions(self, words: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Add to words (rows, steps, P) the sinusoids of their positions (rows, steps), and drop out.

        Args:
            longest: words of the longest sentence.

        Raises:
            ValueError: more than `max_position_embeddings`.
        """
        if longest > len(self.positions.encodings):
            raise ValueError(
                f"a sentence of {longest} words, boundaries included: expected at most max_position_embeddings="
                f"{self.config.max_position_embeddings}; split it, or let the tokenizer cut it "
                f"(truncation=True, max_length={self.config.max_position_embeddings})"
            )
        placed = words + self.positions(positions).to(words.dtype)
        return functional.dropout(placed, self.config.transformer_input_dropout, self.training)


def _of_words(shares: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
    """(rows, heads, steps, steps) in reading order -> (rows, heads, words, words) in the batch's, zero at padding.

    Args:
        columns: (rows, steps), the column of each step.
        mask: (rows, words), bool.
    """
    rows, heads, steps, _ = shares.shape
    words = mask.shape[1]
    read = columns[:, None, None, :].expand(rows, heads, steps, steps)
    placed = shares.new_zeros(rows, heads, steps, words).scatter(3, read, shares)
    reader = columns[:, None, :, None].expand(rows, heads, steps, words)
    return shares.new_zeros(rows, heads, words, words).scatter(2, reader, placed) * mask[:, None, :, None]
