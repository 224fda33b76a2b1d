"""Tiny models and batches for tests."""

import torch

from elmo_hf import ElmoConfig


def tiny_config(**overrides) -> ElmoConfig:
    """Configuration of a model with a few hundred weights."""
    values = dict(
        vocab_size=12,
        mask_token_id=4,
        max_characters_per_word=9,
        character_embedding_size=3,
        character_filters=[[1, 4], [2, 3], [4, 5]],
        num_highway_layers=2,
        projection_size=4,
        cell_size=6,
        # Small enough to clip values in tests, both in the cell and after the projection.
        cell_clip=0.3,
        projection_clip=0.15,
        representation_dropout=0.0,
    )
    return ElmoConfig(**{**values, **overrides})


# Overrides for `tiny_config`: a model that reads words by their id.
WORD_INPUT = {"character_filters": [], "word_embedding_size": 4}
# A model that reads both.
BOTH_INPUTS = {"word_embedding_size": 5}

# Overrides for `tiny_config`: a Transformer.
TRANSFORMER = {
    "encoder_type": "transformer",
    "projection_size": 8,
    "num_attention_heads": 2,
    "feed_forward_size": 6,
    "max_position_embeddings": 16,
}


def with_large_weights(model, scale: float = 0.7):
    """Redraw all weights, large enough that gates, clips and highways matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale)
    return model


def assert_finite_gradients(model, is_read: bool = True) -> None:
    """Every trained weight has a gradient, without NaN; where no word is read, some weight has."""
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    found = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    assert found if not is_read else found.keys() == gradients.keys(), gradients.keys() - found.keys()
    assert [name for name, gradient in found.items() if not gradient.isfinite().all()] == []


def character_row(word: str, length: int = 9) -> list[int]:
    """The original's character row of a word, ids shifted by one."""
    if word in ("<S>", "</S>"):
        body = [256 if word == "<S>" else 257]
    else:
        body = list(word.encode("utf-8")[: length - 2])
    row = [258, *body, 259]
    return [value + 1 for value in row + [260] * (length - len(row))]


def batch_of(sentences: list[str], side: str = "right", words: int | None = None) -> dict[str, torch.Tensor]:
    """`character_ids`, `input_ids` and `attention_mask` of whitespace-separated sentences with boundaries."""
    rows = [[character_row(word) for word in ["<S>", *sentence.split(), "</S>"]] for sentence in sentences]
    width = words or max(map(len, rows))
    characters = torch.zeros(len(rows), width, 9, dtype=torch.int64)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        start = 0 if side == "right" else width - len(row)
        characters[index, start : start + len(row)] = torch.tensor(row)
        ids[index, start : start + len(row)] = torch.tensor([1, *[5 + i % 7 for i in range(len(row) - 2)], 2])
    return {"input_ids": ids, "attention_mask": ids.ne(0).long(), "character_ids": characters}
