"""bilm-tf's training run in `reference/bilm_tf_training`, read as this package's names, ids and batches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elmo_hf import ElmoConfig
from elmo_hf.pretraining.streams import StreamBatch


def reference_config(folder: Path) -> tuple[ElmoConfig, dict[str, Any]]:
    """The configuration that `options.json` describes, and the options themselves."""
    options = json.loads((folder / "options.json").read_text())
    characters, lstm = options["char_cnn"], options["lstm"]
    words = options["n_tokens_vocab"]
    config = ElmoConfig(
        vocab_size=words + 2,  # padding first, mask last
        mask_token_id=words + 1,
        max_characters_per_word=characters["max_characters_per_token"],
        character_embedding_size=characters["embedding"]["dim"],
        character_filters=characters["filters"],
        character_activation=characters["activation"],
        num_highway_layers=characters["n_highway"],
        projection_size=lstm["projection_dim"],
        cell_size=lstm["dim"],
        num_hidden_layers=lstm["n_layers"],
        cell_clip=lstm["cell_clip"],
        projection_clip=lstm["proj_clip"],
        use_skip_connections=lstm["use_skip_connections"],
        lstm_input_dropout=options["dropout"],
    )
    return config, options


def from_tensorflow(path: Path, config: ElmoConfig, slot: str = "", filler: float = 0.0) -> dict[str, Tensor]:
    """Variables of the language model as our parameters; `slot="/Adagrad"` for the accumulators.

    Rows that TensorFlow's model lacks (character and word padding, the mask) are filled with `filler`.
    """
    with np.load(path) as arrays:
        stored = {
            name.removesuffix(slot): torch.from_numpy(arrays[name])
            for name in arrays.files
            if name.startswith("lm/") and name.endswith("/Adagrad") == bool(slot)
        }

    def gates(tensor: Tensor) -> Tensor:
        """Reorder gates along the first axis from i, j, f, o to i, f, g, o; j is g."""
        return torch.cat([tensor.chunk(4)[place] for place in (0, 2, 1, 3)])

    def framed(tensor: Tensor, after: bool) -> Tensor:
        row = torch.full_like(tensor[:1], filler)
        return torch.cat([row, tensor, row] if after else [row, tensor])

    result = {"elmo.embeddings.character_embeddings.weight": framed(stored.pop("lm/char_embed"), after=False)}
    for index in range(len(config.character_filters)):
        prefix = f"elmo.embeddings.convolutions.{index}"
        result[f"{prefix}.weight"] = stored.pop(f"lm/CNN/W_cnn_{index}")[0].permute(2, 1, 0)
        result[f"{prefix}.bias"] = stored.pop(f"lm/CNN/b_cnn_{index}")
    for index in range(config.num_highway_layers):
        for ours, theirs in (("nonlinear", "transform"), ("gate", "carry")):
            prefix = f"elmo.embeddings.highways.{index}.{ours}"
            result[f"{prefix}.weight"] = stored.pop(f"lm/CNN_high_{index}/W_{theirs}").T
            result[f"{prefix}.bias"] = stored.pop(f"lm/CNN_high_{index}/b_{theirs}")
    result["elmo.embeddings.projection.weight"] = stored.pop("lm/CNN_proj/W_proj").T
    result["elmo.embeddings.projection.bias"] = stored.pop("lm/CNN_proj/b_proj")
    for direction, name in enumerate(("forward_lstm", "backward_lstm")):
        for layer in range(config.num_hidden_layers):
            theirs = f"lm/RNN_{direction}/rnn/multi_rnn_cell/cell_{layer}/lstm_cell"
            prefix = f"elmo.encoder.layers.{layer}.{name}"
            kernel = gates(stored.pop(f"{theirs}/kernel").T)
            result[f"{prefix}.input_proj.weight"] = kernel[:, : config.projection_size]
            result[f"{prefix}.hidden_proj.weight"] = kernel[:, config.projection_size :]
            result[f"{prefix}.input_proj.bias"] = gates(stored.pop(f"{theirs}/bias"))
            result[f"{prefix}.output_proj.weight"] = stored.pop(f"{theirs}/projection/kernel").T
    result["softmax.weight"] = framed(stored.pop("lm/softmax/W"), after=True)
    result["softmax.bias"] = framed(stored.pop("lm/softmax/b"), after=True)
    assert not stored, f"not read: {sorted(stored)}"
    return {name: tensor.contiguous() for name, tensor in result.items()}


def reference_batches(path: Path) -> list[StreamBatch]:
    """The batches, with our ids: words and characters one higher than TensorFlow's."""
    with np.load(path) as arrays:
        read = {name: torch.from_numpy(arrays[name]).long() + 1 for name in arrays.files}
    count = 1 + max(int(name.split("/")[0]) for name in read)
    return [
        StreamBatch(
            forward_input_ids=read[f"{number}/token_ids"],
            forward_character_ids=read[f"{number}/tokens_characters"],
            forward_labels=read[f"{number}/next_token_id"],
            backward_input_ids=read[f"{number}/token_ids_reverse"],
            backward_character_ids=read[f"{number}/tokens_characters_reverse"],
            backward_labels=read[f"{number}/next_token_id_reverse"],
            words=read[f"{number}/next_token_id"].numel(),
        )
        for number in range(count)
    ]
