"""Transformer ELMo: a forward and a backward stack of causal Transformer layers over the same word vectors.

Peters et al. 2018b, "Dissecting contextual word embeddings", section 3. Source: AllenNLP
`bidirectional_lm_transformer.py`.

Each direction runs in its own reading order, with padding after the last word. So both use the same causal mask, and no
word attends to padding, whatever side it is on in the batch.
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
    """A linear layer with Glorot-uniform initialization, as in the original."""
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
    """Reference attention, with the name and signature of Transformers' implementations.

    Args:
        module: its `is_causal` selects causal attention if there is no mask.
        query, key, value: (rows, heads, steps, head width).
        attention_mask: broadcast to (rows, heads, steps, steps), bool, true if a query (third axis) attends to a key;
            each query must attend to at least one. `None` for causal or full attention.
        scaling: factor of the scores.
        dropout: dropout probability of the attention weights.

    Returns:
        Outputs (rows, steps, heads, head width) and attention weights (rows, heads, steps, steps).
    """
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is None and module.is_causal:
        steps = scores.shape[-1]
        attention_mask = torch.ones(steps, steps, dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = functional.dropout(scores.softmax(dim=-1, dtype=wide).to(value.dtype), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ElmoPositions(nn.Module):
    """Sinusoidal position embeddings: sin(p / 10000 ** (2i / P)) in column 2i, the cosine in column 2i + 1.

    Saved with the weights, so that a converted checkpoint keeps its own: in float32, sines of large numbers differ in
    their last bits between libraries.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.encodings: Tensor
        self.register_buffer("encodings", torch.empty(config.max_position_embeddings, config.projection_size))
        self.reset_weights()

    def reset_weights(self) -> None:
        """Compute the sinusoids, rounded to float32 at each step as in the original; loaded values are kept."""
        positions, width = self.encodings.shape
        frequencies = torch.exp(torch.arange(0, width, 2).float() * -(math.log(10000.0) / width))
        angles = torch.arange(positions).float()[:, None] * frequencies  # [positions, width / 2]
        init.copy_(self.encodings, torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width])

    def forward(self, positions: Tensor) -> Tensor:
        """(rows, steps), int64 -> (rows, steps, width)."""
        return self.encodings[positions]


class ElmoSelfAttention(nn.Module):
    """Multi-head self-attention, causal if `config.causal`."""

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
        output_attentions: bool = False,
        cache: Cache | None = None,
        layer_index: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """(rows, steps, P) -> (rows, steps, P), and the attention weights, `None` unless requested.

        Mask and weights as in `eager_attention_forward`. With a cache, keys and values of the inputs are appended to
        those of this layer in the cache.
        """
        heads = (*inputs.shape[:2], -1, self.head_width)
        query, key, value = (
            proj(inputs).view(heads).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            key, value = cache.update(key, value, layer_index)
        attend: Any = eager_attention_forward
        if not output_attentions:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        outputs, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.head_width**-0.5,
        )
        return self.o_proj(outputs.reshape(inputs.shape)), weights if output_attentions else None


class ElmoFeedForward(nn.Module):
    """Position-wise feed-forward block: two linear layers with a relu between them."""

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
    """One direction of one layer: attention and feed-forward sublayers with pre-norm and residual connections."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)
        self.attention = ElmoSelfAttention(config)
        self.feed_forward_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)
        self.feed_forward = ElmoFeedForward(config)

    def forward(self, inputs: Tensor, attention_mask: Tensor | None, *args: Any) -> tuple[Tensor, Tensor | None]:
        """Run the block; arguments and results as in [`ElmoSelfAttention`]."""
        attended, weights = self.attention(self.attention_norm(inputs), attention_mask, *args)
        hidden = inputs + self._drop(attended)
        return hidden + self._drop(self.feed_forward(self.feed_forward_norm(hidden))), weights

    def _drop(self, added: Tensor) -> Tensor:
        return functional.dropout(added, self.config.transformer_dropout, self.training)


class ElmoTransformerLayer(GradientCheckpointingLayer):
    """Forward and backward block, independent of each other."""

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.forward_block = ElmoTransformerBlock(config)
        self.backward_block = ElmoTransformerBlock(config)

    def forward(
        self,
        forward_inputs: Tensor,
        backward_inputs: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Inputs (rows, steps, P), each in its own reading order -> outputs of the same shape; if requested, also the
        attention weights of both blocks."""
        forward, forward_weights = self.forward_block(forward_inputs, attention_mask, output_attentions)
        backward, backward_weights = self.backward_block(backward_inputs, attention_mask, output_attentions)
        return forward, backward, forward_weights, backward_weights


class ElmoTransformerEncoder(nn.Module):
    """Forward and backward stack of Transformer layers over word vectors. Carries no state between batches."""

    carries_state = False

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = ElmoPositions(config)
        self.layers = nn.ModuleList(ElmoTransformerLayer(config) for _ in range(config.num_hidden_layers))
        # Applied to the top layer only; lower layers are returned unnormalized.
        self.forward_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)
        self.backward_norm = ElmoLayerNorm(config.projection_size, config.layer_norm_epsilon)

    def forward(
        self, words: Tensor, mask: Tensor, initial_state: Any = None, output_attentions: bool = False
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Run all layers.

        Args:
            words: (batch, words, P), zero at padding.
            mask: (batch, words), bool, true at words; padding may be anywhere in a row.
            initial_state: must be `None`.
            output_attentions: return the attention weights in place of the state.

        Returns:
            N + 1 layers (batch, words, 2P), zero at padding, the word layer without positions first. And `None`, for
            the state; or, with `output_attentions`, the attention weights of N layers, each (batch,
            2 * num_attention_heads, words, words), the forward direction's heads first; queries on the third axis, keys
            on the fourth, zero at padding.

        Raises:
            ValueError: a sentence longer than `max_position_embeddings`, or a state.
        """
        if initial_state is not None:
            raise ValueError(
                "initial_state was given to a Transformer, which has no state: it reads each sentence whole; leave "
                "initial_state out"
            )
        layers, attentions = [torch.cat([words, words], dim=-1)], []
        if not mask.numel():
            nothing = words.new_zeros(len(mask), 2 * self.config.num_attention_heads, *(2 * mask.shape[1:]))
            return layers * (1 + len(self.layers)), [nothing] * len(self.layers) if output_attentions else None
        lengths = mask.sum(dim=1)
        longest = int(lengths.max())
        inputs = self.with_positions(words, (mask.cumsum(dim=1) - 1).clamp(min=0), longest)
        # Columns in reading order with padding last: forwards, and backwards within the length of each row.
        forward = torch.argsort(mask.logical_not().to(torch.uint8), dim=1, stable=True)  # [batch, words]
        step = torch.arange(mask.shape[1], device=mask.device)
        backward = forward.gather(1, torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step))
        # Columns that are padding in every row are cut.
        steps = max(longest, 1)
        columns = forward[:, :steps], backward[:, :steps]
        orders = [order[:, :, None].expand(-1, -1, words.shape[2]) for order in columns]
        in_order = (inputs.gather(1, orders[0]), inputs.gather(1, orders[1]))
        weights: list[tuple[Tensor, Tensor]] | None = [] if output_attentions else None
        outputs = self.run_layers(*in_order, step[:steps] < lengths[:, None], weights)
        for pair in outputs:
            placed = (
                torch.zeros_like(words, dtype=part.dtype).scatter(1, order, part)
                for order, part in zip(orders, pair, strict=True)
            )
            layers.append(torch.cat(list(placed), dim=-1))
        for both in weights or ():
            in_batch_order = [_in_batch_order(part, order, mask) for part, order in zip(both, columns, strict=True)]
            attentions.append(torch.cat(in_batch_order, dim=1))
        return layers, attentions if output_attentions else None

    def empty_cache(self) -> Cache:
        """An empty cache for the keys and values of one direction."""
        return DynamicCache()

    def read_direction(
        self, words: Tensor, mask: Tensor, direction: int, cache: Cache | None, output_attentions: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run one direction over words in its own reading order.

        Args:
            words: (batch, words, P), zero at padding.
            mask: (batch, past words + words), bool, true at words, in the cache and in `words`.
            direction: 0 for the forward blocks; 1 for the backward ones, which must read the whole sentence at once.
            cache: keys and values of the past words; those of `words` are appended.
            output_attentions: also return the attention weights.

        Returns:
            N + 1 layers (batch, words, P), zero at padding, the word layer first; and the attention weights of N layers
            (an empty list unless requested), (batch, num_attention_heads, words, past words + words), zero for queries
            at padding.

        Raises:
            ValueError: a sentence longer than `max_position_embeddings`.
        """
        lengths, count = mask.sum(dim=1, keepdim=True), words.shape[1]
        if not words.numel():
            nothing = words.new_zeros(len(mask), self.config.num_attention_heads, count, mask.shape[1])
            return [words] * (1 + len(self.layers)), [nothing] * (len(self.layers) if output_attentions else 0)
        places = (mask.cumsum(dim=1) - 1)[:, -count:]  # [batch, words], in reading order
        positions = places if direction == 0 else lengths - 1 - places
        hidden = self.with_positions(words, positions.clamp(min=0), int(lengths.max()))
        seen = torch.arange(mask.shape[1], device=mask.device)
        reader = seen[-count:, None]
        # Padding attends to itself, because each query needs a key; its output is set to zero.
        sees = ((seen <= reader) & mask[:, None, :] | (seen == reader)).unsqueeze(1)  # [batch, 1, words, all words]
        real = mask[:, -count:, None]
        name, home = ("forward", "backward")[direction], words.device
        layers, attentions = [words], []
        for number, layer in enumerate(self.layers):
            block = getattr(layer, f"{name}_block")
            if layer.gradient_checkpointing and self.training:
                checkpointed: Any = layer._gradient_checkpointing_func
                hidden, weights = checkpointed(block.__call__, hidden, sees, output_attentions)
            else:
                hidden, weights = block(hidden, sees, output_attentions, cache, number)
            if output_attentions:
                attentions.append(weights.to(home) * real.unsqueeze(1))
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
        weights: list[tuple[Tensor, Tensor]] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Run all layers over words with positions added.

        Args:
            forward, backward: (rows, steps, P), each in its own reading order.
            real: (rows, steps), bool, true from the first step to the row's last word.
            weights: a list that receives, for each layer, the attention weights of both directions, each (rows, heads,
                steps, steps).

        Returns:
            For each layer the outputs of both directions, shaped and ordered as the inputs, zero at padding.
        """
        home = forward.device
        # Causal layers need no mask, because padding is last. In plain layers, words attend to words; rows without
        # words attend to padding, because each query needs a key, and are set to zero.
        attention_mask = None
        if not self.config.causal:
            attention_mask = (real | ~real.any(dim=1, keepdim=True))[:, None, None, :]  # [rows, 1, 1, steps]
            attention_mask = attention_mask.expand(-1, 1, real.shape[1], -1)
        outputs = []
        for number, layer in enumerate(self.layers, 1):
            # A layer may be on another device than the words (device_map).
            forward, backward, *attended = layer(forward, backward, attention_mask, weights is not None)
            forward, backward = forward.to(home), backward.to(home)
            if weights is not None:
                weights.append((attended[0].to(home), attended[1].to(home)))
            pair = (forward, backward)
            if number == len(self.layers):
                pair = (self.forward_norm(forward).to(home), self.backward_norm(backward).to(home))
            outputs.append((pair[0] * real.unsqueeze(-1), pair[1] * real.unsqueeze(-1)))
        return outputs

    def with_positions(self, words: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Add the sinusoids of the positions (rows, steps) to the words (rows, steps, P), and apply dropout.

        Args:
            longest: length of the longest sentence in words.

        Raises:
            ValueError: `longest` exceeds `max_position_embeddings`.
        """
        if longest > len(self.positions.encodings):
            raise ValueError(
                f"a sentence of {longest} words, boundaries included: expected at most max_position_embeddings="
                f"{self.config.max_position_embeddings}; split it, or let the tokenizer truncate it "
                f"(truncation=True, max_length={self.config.max_position_embeddings})"
            )
        placed = words + self.positions(positions).to(words.dtype)
        return functional.dropout(placed, self.config.transformer_input_dropout, self.training)


def _in_batch_order(weights: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
    """Attention weights (rows, heads, steps, steps) in reading order -> (rows, heads, words, words) in batch order.

    Args:
        columns: (rows, steps), int64, the column of each step.
        mask: (rows, words), bool.
    """
    rows, heads, steps, _ = weights.shape
    words = mask.shape[1]
    read = columns[:, None, None, :].expand(rows, heads, steps, steps)
    placed = weights.new_zeros(rows, heads, steps, words).scatter(3, read, weights)
    reader = columns[:, None, :, None].expand(rows, heads, steps, words)
    return weights.new_zeros(rows, heads, words, words).scatter(2, reader, placed) * mask[:, None, :, None]
