"""Small task models as AllenNLP's training writes them: `config.json`, `vocabulary/`, random `weights.th`."""

import json

import torch

from .checkpoints import allennlp_state, bilm_arrays, options

TOKENS = ["@@UNKNOWN@@", "the", "film", "maria", "10\u00a0000", "good", ".", "reykjav\u00edk"]
CHARACTERS = ["@@UNKNOWN@@", "e", "a", "M", "\u00a0", "@@NEWLINE@@", "i", "0"]
BIOUL = ["O", "U-LOC", "B-PER", "L-PER", "I-PER"]
CLASSES = ["pos", "neg", "neutral"]
SIZES = {"cell_clip": 3.0, "proj_clip": 3.0, "max_characters_per_token": 14}
WIDTH = 12  # of ELMo's vectors, both directions

ELMO = {"type": "elmo_token_embedder", "options_file": options(**SIZES), "weight_file": "w", "dropout": 0.0}
WORDS = {"type": "embedding", "embedding_dim": 5}
SPELLED = {
    "type": "character_encoding",
    "embedding": {"embedding_dim": 3, "vocab_namespace": "token_characters"},
    "encoder": {"type": "cnn", "embedding_dim": 3, "num_filters": 4, "ngram_filter_sizes": [2, 3]},
}
INDEXERS = {
    "elmo": {"type": "elmo_characters"},
    "token_characters": {"type": "characters", "min_padding_length": 3},
    "tokens": {"type": "single_id", "lowercase_tokens": True},
}


def tagger(**changes):
    """`config.json` of a `crf_tagger`; keywords replace options of the model, `None` removes one."""
    model = {
        "type": "crf_tagger",
        "text_field_embedder": {"token_embedders": {"tokens": WORDS, "elmo": ELMO, "token_characters": SPELLED}},
        "encoder": {"type": "lstm", "bidirectional": True, "input_size": 25, "hidden_size": 6, "num_layers": 2},
        "label_encoding": "BIOUL",
        "dropout": 0.5,
    } | changes
    return {"dataset_reader": {"type": "conll2003", "token_indexers": INDEXERS}, "model": _without_none(model)}


def classifier(**changes):
    """`config.json` of a `bcn`; keywords as in the function above."""
    model = {
        "type": "bcn",
        "text_field_embedder": {"token_embedders": {"tokens": WORDS}},
        "elmo": {**ELMO, "num_output_representations": 2},
        "use_input_elmo": True,
        "use_integrator_output_elmo": True,
        "embedding_dropout": 0.5,
        "pre_encode_feedforward": {
            "input_dim": 17, "num_layers": 1, "hidden_dims": [7], "activations": ["relu"], "dropout": [0.25]
        },
        "encoder": {"type": "lstm", "bidirectional": True, "input_size": 7, "hidden_size": 4},
        "integrator": {"type": "lstm", "bidirectional": True, "input_size": 24, "hidden_size": 3},
        "integrator_dropout": 0.1,
        "output_layer": {
            "input_dim": 72, "num_layers": 2, "output_dims": [6, 3], "pool_sizes": 4, "dropout": [0.2, 0.0]
        },
    } | changes  # fmt: skip
    return {"dataset_reader": {"type": "sst_tokens", "token_indexers": INDEXERS}, "model": _without_none(model)}


def _without_none(options):
    return {name: value for name, value in options.items() if value is not None}


def elmo_state(prefix, mixes):
    values = options(**SIZES)
    drawn = torch.randn(mixes, 4, generator=torch.Generator().manual_seed(1)).tolist()
    return allennlp_state(bilm_arrays(values), values, prefix, tuple(tuple(mix[:3]) for mix in drawn))


class Weights:
    """Random tensors under the names of AllenNLP's modules."""

    def __init__(self):
        self.state = {}
        self.random = torch.Generator().manual_seed(0)

    def add(self, name, *shape, scale=0.5):
        self.state[name] = torch.randn(*shape, generator=self.random) * scale

    def linear(self, name, inputs, outputs):
        self.add(f"{name}.weight", outputs, inputs)
        self.add(f"{name}.bias", outputs)

    def encoder(self, name, settings, width):
        size = settings["hidden_size"]
        for layer in range(settings.get("num_layers", 1)):
            inputs = 2 * size if layer else width
            for side, suffix in (("forward", ""), ("backward", "_reverse")):
                if settings["type"] == "lstm":
                    for part, shape in (("ih", inputs), ("hh", size)):
                        self.add(f"{name}._module.weight_{part}_l{layer}{suffix}", 4 * size, shape)
                        self.add(f"{name}._module.bias_{part}_l{layer}{suffix}", 4 * size)
                    continue
                highway = settings.get("use_highway", True)
                cell = f"{name}._module.{side}_layer_{layer}.{settings.get('names', 'cell.')}"
                self.add(f"{cell}input_linearity.weight", (6 if highway else 4) * size, inputs)
                self.add(f"{cell}state_linearity.weight", (5 if highway else 4) * size, size)
                self.add(f"{cell}state_linearity.bias", (5 if highway else 4) * size)

    def text_field(self, prefix, embedders):
        for name, settings in embedders.items():
            place = f"{prefix}token_embedder_{name}."
            kind = settings.get("type", "embedding")
            if kind == "elmo_token_embedder":
                self.state |= elmo_state(f"{place}_elmo.", 1)
            elif kind == "embedding":
                self.add(f"{place}weight", len(TOKENS) + 1, settings["embedding_dim"])
            else:
                encoder = settings["encoder"]
                rows = len(CHARACTERS if "vocab_namespace" in settings["embedding"] else TOKENS) + 1
                self.add(f"{place}_embedding._module.weight", max(rows, len(CHARACTERS) + 1), encoder["embedding_dim"])
                for number, width in enumerate(encoder["ngram_filter_sizes"]):
                    conv = f"{place}_encoder._module.conv_layer_{number}"
                    self.add(f"{conv}.weight", encoder["num_filters"], encoder["embedding_dim"], width)
                    self.add(f"{conv}.bias", encoder["num_filters"])


def constraint_mask(labels, scheme):
    """`crf._constraint_mask` by AllenNLP's rules, written out for the labels of these tests."""
    count = len(labels)
    mask = torch.zeros(count + 2, count + 2)
    parts = [(label[0], label[1:]) for label in labels]
    for i, (before, old) in enumerate(parts):
        for j, (after, new) in enumerate(parts):
            inside = before in "BI" and old == new
            if scheme == "BIOUL":
                allowed = after in "OBU" if before in "OLU" else after in "IL" and inside
            elif scheme == "BMES":
                allowed = after in "BS" if before in "ES" else after in "ME" and before in "BM" and old == new
            elif scheme == "BIO":
                allowed = after in "OB" or inside
            else:
                allowed = after in "OI" or inside
            mask[i, j] = float(allowed)
    first, last = {"BIOUL": ("OBU", "OLU"), "BIO": ("OB", "OBI"), "IOB1": ("OI", "OBI"), "BMES": ("BS", "ES")}[scheme]
    for i, (letter, _) in enumerate(parts):
        mask[count, i], mask[i, count + 1] = float(letter in first), float(letter in last)
    return mask


def write(folder, config, labels=None, version="2.10.1", **tensors):
    """Write the archive's folder; keywords replace tensors, `None` removes one (`__` stands for a dot)."""
    model, weights = config["model"], Weights()
    is_tagger = model["type"] != "bcn"
    labels = labels or (BIOUL if is_tagger else CLASSES)
    fields = model["text_field_embedder"]
    embedders = fields.get("token_embedders") or {k: v for k, v in fields.items() if isinstance(v, dict)}
    weights.text_field("text_field_embedder." if is_tagger else "_text_field_embedder.", embedders)
    if is_tagger:
        size = model["encoder"]["hidden_size"]
        weights.encoder("encoder", model["encoder"], model["encoder"]["input_size"])
        width = 2 * size
        for number, outputs in enumerate(model.get("feedforward", {}).get("hidden_dims", [])):
            weights.linear(f"_feedforward._linear_layers.{number}", width, outputs)
            width = outputs
        weights.linear("tag_projection_layer._module", width, len(labels))
        weights.add("crf.transitions", len(labels), len(labels))
        if model.get("include_start_end_transitions", True):
            weights.add("crf.start_transitions", len(labels))
            weights.add("crf.end_transitions", len(labels))
        scheme = model.get("label_encoding") or model.get("constraint_type")
        constrained = model.get("constrain_crf_decoding", scheme is not None)
        mask = constraint_mask(labels, scheme) if constrained else torch.ones(len(labels) + 2, len(labels) + 2)
        weights.state["crf._constraint_mask"] = mask
    else:
        if "elmo" in model:
            weights.state |= elmo_state("_elmo.", model["elmo"].get("num_output_representations", 1))
        pre = model["pre_encode_feedforward"]
        weights.linear("_pre_encode_feedforward._linear_layers.0", pre["input_dim"], pre["hidden_dims"][0])
        weights.encoder("_encoder", model["encoder"], model["encoder"]["input_size"])
        weights.encoder("_integrator", model["integrator"], model["integrator"]["input_size"])
        output = model["output_layer"]
        width = output["input_dim"]
        weights.linear("_self_attentive_pooling_projection", width // 4, 1)
        for number, outputs in enumerate(output.get("output_dims") or output["hidden_dims"]):
            pool = output.get("pool_sizes", 1)
            weights.linear(f"_output_layer._linear_layers.{number}", width, outputs * pool)
            width = outputs
    for name, value in tensors.items():
        name = name.replace("__", ".")
        if value is None:
            del weights.state[name]
        else:
            weights.state[name] = value
    (folder / "vocabulary").mkdir(parents=True)
    for name, lines in (
        ("tokens", TOKENS),
        ("token_characters", CHARACTERS),
        ("labels", labels),
        ("non_padded_namespaces", ["*tags", "*labels"]),
    ):
        (folder / "vocabulary" / f"{name}.txt").write_bytes("\n".join(lines).encode() + b"\n")
    (folder / "config.json").write_text(json.dumps(config))
    if version is not None:
        (folder / "meta.json").write_text(json.dumps({"version": version}))
    torch.save(weights.state, folder / "weights.th")
    return folder
