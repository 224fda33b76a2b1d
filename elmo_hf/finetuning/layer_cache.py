"""Caching of a frozen biLM's layers: those of each sentence are computed once, in the first epoch."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from elmo_hf.model.base_model import ElmoModel

DROPOUTS = ("lstm_input_dropout", "transformer_input_dropout", "attention_dropout", "transformer_dropout")


def cache_layers(elmo: ElmoModel, gigabytes: float) -> dict[bytes, Tensor]:
    """Make a biLM cache the layers of every sentence it reads; mixes and their dropout still run every time.

    The result is exact: equal sentences have equal layers in any batch, up to the summation order of kernels.

    Args:
        elmo: a frozen biLM without internal dropout; permanently modified.
        gigabytes: maximum size of the cache; further sentences are computed every time.

    Returns:
        The cache: sentence -> (num_hidden_layers + 1, words, 2 * projection_size).

    Raises:
        ValueError: a biLM that is trained, has internal dropout, or reads more than one input.
    """
    if any(weight.requires_grad for part in (elmo.embeddings, elmo.encoder) for weight in part.parameters()):
        raise ValueError("--cache_layers without --freeze_bilm: the layers of a biLM that is trained change every step")
    if any(getattr(elmo.config, name) for name in DROPOUTS):
        raise ValueError("--cache_layers with dropout inside of the biLM: its layers would change every time")
    embed, encode = elmo.embeddings.forward, elmo.encoder.forward
    memory: dict[bytes, Tensor] = {}
    room = int(gigabytes * 1e9)

    def pass_on(words: Tensor, *more: Tensor, mask: Tensor) -> Tensor:
        if more:
            raise ValueError("--cache_layers: this biLM reads more of a word than its characters or its id")
        return words

    @torch.no_grad()
    def look_up(words: Tensor, mask: Tensor, *state: Any) -> tuple[list[Tensor], None]:
        """Replace the encoder; takes the inputs of the embeddings, (batch, words, ...), instead of their vectors."""
        nonlocal room
        rows = [row[kept].cpu().numpy().tobytes() for row, kept in zip(words, mask, strict=True)]
        keys = [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
        found = {key: memory[key] for key in keys if key in memory}
        new = list({key: index for index, key in enumerate(keys) if key not in found}.values())
        if new:
            layers = torch.stack(encode(embed(words[new], mask=mask[new]), mask[new])[0], dim=1)
            for index, row in zip(new, layers, strict=True):
                found[keys[index]] = value = row[:, mask[index]]  # masked indexing makes a copy
                if value.nbytes <= room:
                    memory[keys[index]] = value
                    room -= value.nbytes
        first = found[keys[0]]
        result = first.new_zeros(len(first), *mask.shape, first.shape[-1])
        for index, key in enumerate(keys):
            result[:, index, mask[index]] = found[key]
        return list(result), None

    elmo.embeddings.forward = pass_on  # type: ignore[method-assign, assignment]
    elmo.encoder.forward = look_up
    return memory
