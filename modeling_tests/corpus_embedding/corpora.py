"""A small corpus and model, and a reader of outputs."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
from safetensors.numpy import load_file

from elmo_hf import ElmoModel, ElmoTokenizer
from modeling_tests.tiny import WORD_INPUT, tiny_config, with_large_weights

WORDS = "the cat sat on a mat , Straße 猫".split()
FORMATS = ("hdf5", "parquet", "safetensors")


def sentences(count: int = 40, seed: int = 0) -> list[list[str]]:
    """Sentences of many lengths, some empty, one long."""
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(WORDS, size=size).tolist() for size in generator.integers(0, 9, count)]
    if count > 8:
        drawn[7] = generator.choice(WORDS, size=43).tolist()
        drawn[8] = []
    return drawn


def write_text(path: Path, drawn: list[list[str]]) -> Path:
    path.write_text("".join(" ".join(words) + "\n" for words in drawn), encoding="utf-8")
    return path


def model_and_tokenizer(**overrides) -> tuple[ElmoModel, ElmoTokenizer]:
    return with_large_weights(ElmoModel(tiny_config(**overrides))).eval(), ElmoTokenizer(max_characters_per_word=9)


def tagger_and_tokenizer() -> tuple[ElmoModel, ElmoTokenizer]:
    """A model that reads words by their id, with the POS tags N and D."""
    vocabulary = ["<S>", "</S>", "<UNK>", *WORDS]
    tokenizer = ElmoTokenizer(vocab=vocabulary, max_characters_per_word=9, pos_tag_set=["N", "D"])
    config = tiny_config(**WORD_INPUT, num_pos_tags=2, vocab_size=len(tokenizer))
    return with_large_weights(ElmoModel(config)).eval(), tokenizer


def tags_of(drawn: list[list[str]], seed: int = 1) -> list[list[str | None]]:
    """A POS tag, or `None`, for each word."""
    generator = np.random.default_rng(seed)
    return [generator.choice(np.array(["N", "D", None]), size=len(words)).tolist() for words in drawn]


def read(output: Path) -> list[np.ndarray]:
    """All arrays of an output, in sentence order."""
    arrays: dict[int, np.ndarray] = {}
    if output.is_file():
        with h5py.File(output) as file:
            arrays = {int(name): file[name][...] for name in file if name.isdigit()}
    for path in output.glob("embeddings-*.safetensors"):
        arrays.update((int(name), array) for name, array in load_file(path).items())
    for path in output.glob("embeddings-*.parquet"):
        table = pyarrow.parquet.read_table(path)
        kind = table.schema.field("vectors").type
        layers = 0
        while not hasattr(kind, "list_size"):
            kind, layers = kind.value_type, layers + 1
        shape = (3, -1, kind.list_size) if layers == 2 else (-1, kind.list_size)
        dtype = kind.value_type.to_pandas_dtype()
        for number, row in zip(table["index"].to_pylist(), table["vectors"].to_pylist(), strict=True):
            flat = np.array(row, dtype=dtype)
            if flat.size == 0:
                flat = flat.reshape(*[3] * (layers - 1), 0, kind.list_size)
            arrays[number] = flat.reshape(shape) if flat.size else flat
    assert sorted(arrays) == list(range(len(arrays)))
    return [arrays[number] for number in sorted(arrays)]


def check_equal(found: list[np.ndarray], expected: list[np.ndarray], bound: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for array, same in zip(found, expected, strict=True):
        assert array.shape == same.shape
        np.testing.assert_allclose(array.astype(np.float64), same.astype(np.float64), rtol=0, atol=bound)
