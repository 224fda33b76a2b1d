"""Small AllenNLP language models for tests, under the names and in the shapes that their program writes."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch

LINES = ["@@UNKNOWN@@", "<S>", "</S>", "the", "cat", "sat", "\u3000odd", "."]
EMBEDDER = "_text_field_embedder.token_embedder_token_characters."


def language_model_config(age="iterator", **changes):
    """`config.json`; changes go to the part that has the key: encoder, contextualizer, or the model."""
    encoder = {
        "type": "cnn-highway",
        "activation": "relu",
        "embedding_dim": 3,
        "filters": [[1, 4], [2, 3], [3, 5]],
        "num_highway": 2,
        "projection_dim": 16,
        "projection_location": "after_highway",
        "do_layer_norm": True,
    }
    contextualizer = {
        "type": "bidirectional_language_model_transformer",
        "input_dim": 16,
        "hidden_dim": 10,
        "num_layers": 2,
        "dropout": 0.2,
        "input_dropout": 0.3,
    }
    model = {"type": "language_model", "bidirectional": True, "num_samples": 4, "sparse_embeddings": True}
    for key, value in changes.items():
        part = next((part for part in (encoder, contextualizer) if key in part), model)
        if value is ...:
            part.pop(key)
        else:
            part[key] = value
    characters = {
        "type": "character_encoding",
        "embedding": {"num_embeddings": 262, "embedding_dim": 3},
        "encoder": encoder,
    }
    indexers = {"tokens": {"type": "single_id"}, "token_characters": {"type": "elmo_characters"}}
    return {
        "dataset_reader": {
            "type": "simple_language_modeling",
            "token_indexers": indexers,
            "start_tokens": ["<S>"],
            "end_tokens": ["</S>"],
        },
        "model": {
            **model,
            "text_field_embedder": {"token_embedders": {"tokens": {"type": "empty"}, "token_characters": characters}},
            "contextualizer": contextualizer,
        },
        age: {"batch_size": 2},
    }


def language_model_state(config, classes=9, layout="sparse", seed=0, positions=5000):
    """Random tensors, so large that every part matters."""
    random = np.random.default_rng(seed)

    def array(*shape):
        return torch.from_numpy(random.normal(scale=0.5, size=shape).astype(np.float32))

    def add(name, *shape):
        state[f"{name}.weight"], state[f"{name}.bias"] = array(*shape), array(shape[0])

    model = config["model"]
    encoder = model["text_field_embedder"]["token_embedders"]["token_characters"]["encoder"]
    contextualizer = model["contextualizer"]
    width, hidden = contextualizer["input_dim"], contextualizer["hidden_dim"]
    filters = sum(count for _, count in encoder["filters"])
    state = {"_last_average_loss": torch.zeros(1), f"{EMBEDDER}_embedding._module.weight": array(262, 3)}
    place = f"{EMBEDDER}_encoder._module."
    for i, (window, count) in enumerate(encoder["filters"]):
        add(f"{place}char_conv_{i}", count, 3, window)
    inside = width if encoder["projection_location"] == "after_cnn" else filters
    for k in range(encoder["num_highway"]):
        add(f"{place}_highways._layers.{k}", 2 * inside, inside)
    add(f"{place}_projection", encoder["projection_dim"], filters)
    norms = [f"{place}_layer_norm"] if encoder["do_layer_norm"] else []
    for side in ("forward", "backward"):
        stack = f"_contextualizer._{side}_transformer."
        for layer in range(contextualizer["num_layers"]):
            for number in range(4):
                add(f"{stack}layers.{layer}.self_attn.linears.{number}", width, width)
            add(f"{stack}layers.{layer}.feed_forward.w_1", hidden, width)
            add(f"{stack}layers.{layer}.feed_forward.w_2", width, hidden)
            norms += [f"{stack}layers.{layer}.sublayer.{number}.norm" for number in range(2)]
        norms.append(f"{stack}norm")
    for norm in norms:
        state[f"{norm}.gamma"], state[f"{norm}.beta"] = array(width), array(width)
    state["_contextualizer._position.positional_encoding"] = array(1, positions, width)
    weight, bias = array(classes, width), array(classes)
    if layout == "sparse":
        state |= {"_softmax_loss.softmax_w.weight": weight, "_softmax_loss.softmax_b.weight": bias[:, None]}
    elif layout is not None:
        weight = weight.T.contiguous() if layout == "unsampled" else weight
        state |= {"_softmax_loss.softmax_w": weight, "_softmax_loss.softmax_b": bias}
    return state


def write_language_model(folder, config=None, state=None, lines=LINES, layout="sparse", **changes):
    """The unpacked archive; returns the state dict."""
    folder = Path(folder)
    (folder / "vocabulary").mkdir(parents=True, exist_ok=True)
    if layout == "unsampled":
        changes["num_samples"] = ...
    config = config or language_model_config(**changes)
    state = state or language_model_state(config, len(lines) + 1, layout)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocabulary" / "tokens.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*tags\n*labels\n")
    torch.save(state, folder / "weights.th")
    return state


def pack(folder, path):
    """The archive of such a folder."""
    with tarfile.open(path, "w:gz") as file:
        for item in sorted(Path(folder).rglob("*")):
            if item.is_file():
                file.add(item, str(item.relative_to(folder)))
    return path


def read_archive(path):
    """State dict, lines of the vocabulary and text of the configuration of an archive."""
    with tarfile.open(path) as file:
        content = {member.name: file.extractfile(member).read() for member in file if member.isfile()}
    state = torch.load(io.BytesIO(content["weights.th"]), weights_only=True)
    return state, content["vocabulary/tokens.txt"].decode().split("\n")[:-1], content["config.json"].decode()
