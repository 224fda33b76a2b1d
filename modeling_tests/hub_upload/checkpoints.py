"""Small original checkpoints for tests, written as the original programs write them."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import torch

VOCABULARY = ["<S>", "</S>", "<UNK>", "the", "neural", "."]
FILTERS = [[1, 4], [2, 3], [3, 5]]


def options(**changes):
    """`options.json` of a tiny model; keys of either part, without the part's name."""
    lstm = {
        "use_skip_connections": True,
        "projection_dim": 6,
        "dim": 10,
        "n_layers": 2,
        "cell_clip": 0.8,
        "proj_clip": 0.5,
    }
    char_cnn = {
        "activation": "relu",
        "embedding": {"dim": 3},
        "filters": FILTERS,
        "n_highway": 2,
        "n_characters": 262,
        "max_characters_per_token": 50,
    }
    for key, value in changes.items():
        part = lstm if key in lstm else char_cnn
        if value is ...:
            part.pop(key)
        else:
            part[key] = value
    return {"lstm": lstm, "char_cnn": char_cnn}


def word_options(**changes):
    """`options.json` of a tiny model that reads words by their id; keys of the `lstm` part."""
    return {"lstm": options(**changes)["lstm"]}


def bilm_arrays(values, words=None, seed=0, softmax=True, cell="RNN_{d}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"):
    """Random arrays under the names and in the shapes of bilm-tf's dump, large enough for clips and gates to matter.

    Projections exist where bilm-tf makes them: between different sizes only. A model without characters has a row for
    each of `words`. A softmax is only there with `words`, and without its weight where the options share it.
    """
    random = np.random.default_rng(seed)

    def array(*shape):
        return random.normal(scale=0.4, size=shape).astype(np.float32)

    lstm, char_cnn = values["lstm"], values.get("char_cnn")
    width, size = lstm["projection_dim"], lstm["dim"]
    if char_cnn is None:
        arrays = {"embedding": array(words, width)}
    else:
        filters = sum(count for _, count in char_cnn["filters"])
        arrays = {"char_embed": array(261, char_cnn["embedding"]["dim"])}
        for i, (window, count) in enumerate(char_cnn["filters"]):
            arrays[f"CNN/W_cnn_{i}"] = array(1, window, char_cnn["embedding"]["dim"], count)
            arrays[f"CNN/b_cnn_{i}"] = array(count)
        for k in range(char_cnn.get("n_highway") or 0):
            for part in ("transform", "carry"):
                arrays[f"CNN_high_{k}/W_{part}"] = array(filters, filters)
                arrays[f"CNN_high_{k}/b_{part}"] = array(filters)
        if filters != width:
            arrays["CNN_proj/W_proj"], arrays["CNN_proj/b_proj"] = array(filters, width), array(width)
    for d in range(2):
        for layer in range(lstm.get("n_layers", 1)):
            place = cell.format(d=d, layer=layer)
            arrays[f"{place}/W_0"] = array(2 * width, 4 * size)
            arrays[f"{place}/B"] = array(4 * size)
            if size != width:
                arrays[f"{place}/W_P_0"] = array(size, width)
    if words is not None and softmax:
        arrays["softmax/W"], arrays["softmax/b"] = array(words, width), array(words)
        if values.get("share_embedding_softmax"):
            del arrays["softmax/W"]
    return arrays


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def read_hdf5(path):
    """All datasets of a file: name -> array."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def write_bilm(
    folder, values=None, arrays=None, vocabulary=None, separate_softmax=False, weights="weights.hdf5", **changes
):
    """Write options.json, weights and, if asked for, vocab.txt and a softmax; returns the arrays."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = values or options(**changes)
    if arrays is None:
        arrays = bilm_arrays(values, words=len(vocabulary) if vocabulary else None)
    (folder / "options.json").write_text(json.dumps(values))
    inside = {name: array for name, array in arrays.items() if not (separate_softmax and name.startswith("softmax/"))}
    write_hdf5(folder / weights, inside)
    if len(inside) < len(arrays):
        write_hdf5(folder / "softmax_weights.hdf5", {name: arrays[name] for name in arrays.keys() - inside.keys()})
    if vocabulary:
        (folder / "vocab.txt").write_text("".join(word + "\n" for word in vocabulary), encoding="utf-8")
    return arrays


def allennlp_state(arrays, values, prefix="", mixes=((0.3, -0.2, 0.1),), gamma=1.5):
    """The state dict of AllenNLP's `Elmo` for bilm-tf's arrays, as its loader makes it."""
    tensors = {
        "_elmo_lstm._token_embedder._char_embedding_weights": np.vstack(
            [np.zeros_like(arrays["char_embed"][:1]), arrays["char_embed"]]
        )
    }
    words = "_elmo_lstm._token_embedder."
    for i in range(len(values["char_cnn"]["filters"])):
        tensors[f"{words}char_conv_{i}.weight"] = arrays[f"CNN/W_cnn_{i}"].squeeze(0).transpose(2, 1, 0)
        tensors[f"{words}char_conv_{i}.bias"] = arrays[f"CNN/b_cnn_{i}"]
    for k in range(values["char_cnn"]["n_highway"]):
        high = f"CNN_high_{k}/"
        tensors[f"{words}_highways._layers.{k}.weight"] = np.vstack(
            [arrays[high + "W_transform"].T, -arrays[high + "W_carry"].T]
        )
        tensors[f"{words}_highways._layers.{k}.bias"] = np.hstack(
            [arrays[high + "b_transform"], -arrays[high + "b_carry"]]
        )
    tensors[f"{words}_projection.weight"] = arrays["CNN_proj/W_proj"].T
    tensors[f"{words}_projection.bias"] = arrays["CNN_proj/b_proj"]
    width = values["lstm"]["projection_dim"]
    for d, side in enumerate(("forward", "backward")):
        for layer in range(values["lstm"]["n_layers"]):
            cell = f"RNN_{d}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"
            place = f"_elmo_lstm._elmo_lstm.{side}_layer_{layer}."
            i, g, f, o = np.split(arrays[cell + "W_0"].T, 4)
            kernel = np.vstack([i, f, g, o])
            i, g, f, o = np.split(arrays[cell + "B"], 4)
            tensors[place + "input_linearity.weight"] = kernel[:, :width]
            tensors[place + "state_linearity.weight"] = kernel[:, width:]
            tensors[place + "state_linearity.bias"] = np.hstack([i, f + np.float32(1), g, o])
            tensors[place + "state_projection.weight"] = arrays[cell + "W_P_0"].T
    for k, mix in enumerate(mixes):
        tensors[f"scalar_mix_{k}.gamma"] = np.float32([gamma])
        for j, value in enumerate(mix):
            tensors[f"scalar_mix_{k}.scalar_parameters.{j}"] = np.float32([value])
    return {prefix + name: torch.from_numpy(np.ascontiguousarray(tensor)) for name, tensor in tensors.items()}


def allennlp_config(**settings):
    """`config.json` of a model with an ELMo embedder."""
    embedder = {"type": "elmo_token_embedder", "options_file": "https://example.org/o.json", "weight_file": "w"}
    embedders = {"elmo": {**embedder, **settings}}
    return {"model": {"text_field_embedder": {"token_embedders": embedders}}}


TAGGER_PREFIX = "text_field_embedder.token_embedder_elmo._elmo."


def zip_folder(folder, path, names=None):
    """Pack files of a folder at the root of a ZIP."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for item in sorted(Path(folder).iterdir()):
            if names is None or item.name in names:
                file.write(item, item.name)


def leftovers(folder):
    """Hidden entries: leftover partial or replaced folders."""
    return [path.name for path in Path(folder).iterdir() if path.name.startswith(".")]
