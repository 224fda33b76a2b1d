"""Small ELMoForManyLangs directories for tests, written as that program writes them."""

import json
from collections import OrderedDict

import numpy as np
import torch

MARKS = ("<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>")
LETTERS = "abcdefghijklmnopqrstuvwxyzTü中文字ب\u3000"
WORDS = ("<oov>", "<bos>", "<eos>", "<pad>", "the", "中文", "Größ", "<mas", "cat", "!")


def architecture(word_dim=5, char_dim=3, **changes):
    """The content of an architecture file; keys of either part, without the part's name."""
    encoder = {"name": "elmo", "projection_dim": 6, "cell_clip": 3, "proj_clip": 3, "dim": 8, "n_layers": 2}
    embedder = {
        "name": "cnn",
        "activation": "relu",
        "filters": [[1, 4], [2, 3], [3, 5]],
        "n_highway": 2,
        "word_dim": word_dim,
        "char_dim": char_dim,
        "max_characters_per_token": 6,
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        values = {"encoder": encoder, "token_embedder": embedder}[part]
        if value is ...:
            values.pop(name)
        else:
            values[name] = value
    return {"encoder": encoder, "token_embedder": embedder, "classifier": {}, "dropout": 0.1}


def dictionary(symbols):
    """The text of a dictionary file."""
    return "".join(f"{symbol}\t{number}\n" for number, symbol in enumerate(symbols))


ROWS = len(MARKS) + len(LETTERS)


def state_dicts(values, characters=ROWS, words=10, seed=0):
    """Both state dicts, large enough for clips and gates to matter."""
    random = np.random.default_rng(seed)

    def tensor(*shape):
        return torch.from_numpy(random.normal(scale=0.4, size=shape).astype(np.float32))

    embedder, encoder = values["token_embedder"], values["encoder"]
    filters = sum(count for _, count in embedder["filters"]) if embedder["char_dim"] else 0
    tokens = OrderedDict()
    if embedder["word_dim"]:
        tokens["word_emb_layer.embedding.weight"] = tensor(words, embedder["word_dim"])
    if embedder["char_dim"]:
        tokens["char_emb_layer.embedding.weight"] = tensor(characters, embedder["char_dim"])
        for i, (width, count) in enumerate(embedder["filters"]):
            tokens[f"convolutions.{i}.weight"] = tensor(count, embedder["char_dim"], width)
            tokens[f"convolutions.{i}.bias"] = tensor(count)
        for k in range(embedder["n_highway"]):
            tokens[f"highways._layers.{k}.weight"] = tensor(2 * filters, filters)
            tokens[f"highways._layers.{k}.bias"] = tensor(2 * filters)
    tokens["projection.weight"] = tensor(encoder["projection_dim"], embedder["word_dim"] + filters)
    tokens["projection.bias"] = tensor(encoder["projection_dim"])
    width, size = encoder["projection_dim"], encoder["dim"]
    layers = OrderedDict()
    for layer in range(encoder["n_layers"]):
        for side in ("forward", "backward"):
            place = f"{side}_layer_{layer}"
            layers[f"{place}.input_linearity.weight"] = tensor(4 * size, width)
            layers[f"{place}.state_linearity.weight"] = tensor(4 * size, width)
            layers[f"{place}.state_linearity.bias"] = tensor(4 * size)
            layers[f"{place}.state_projection.weight"] = tensor(width, size)
    return {"token_embedder.pkl": tokens, "encoder.pkl": layers}


def classifier(kind="sampled_softmax", words=10, width=6, seed=3):
    """The state dict that the training program adds with `--save_classify_layer`, by the class of the softmax."""
    random = np.random.default_rng(seed)

    def tensor(*shape):
        return torch.from_numpy(random.normal(scale=0.6, size=shape).astype(np.float32))

    return {
        "sampled_softmax": lambda: OrderedDict(
            {
                "oov_column": tensor(width, 1),
                "column_emb.weight": tensor(words, width),
                "column_bias.weight": tensor(words, 1),
            }
        ),
        "softmax": lambda: OrderedDict({"hidden2tag.weight": tensor(words, width), "hidden2tag.bias": tensor(words)}),
        "cnn_softmax": lambda: OrderedDict(
            {"M": tensor(width, 2), "oov_column": tensor(width, 1), "corr.weight": tensor(words, 2)}
        ),
    }[kind]()


def write_model(folder, values=None, states=None, characters=None, words=None, config="cnn_test.json", legacy=True):
    """Write a directory; dictionaries where the architecture has a size for them. Returns the state dicts.

    With `legacy` the state dicts have torch 0.4's form, as all published ones.
    """
    values = values or architecture()
    folder.mkdir(parents=True, exist_ok=True)
    states = states or state_dicts(values)
    for name, state in states.items():
        torch.save(state, folder / name, _use_new_zipfile_serialization=not legacy)
    (folder / "config.json").write_text(json.dumps({"config_path": config, "gold": None}))
    (folder / config.rsplit("/", 1)[-1]).write_text(json.dumps(values))
    embedder = values["token_embedder"]
    for name, size, text in (
        ("char.dic", embedder.get("char_dim"), characters or dictionary((*MARKS, *LETTERS))),
        ("word.dic", embedder.get("word_dim"), words or dictionary(WORDS)),
    ):
        if size:
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return states
