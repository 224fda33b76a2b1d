"""Conversion of AllenNLP's complete task models around an `Elmo`, from the configuration of a `crf_tagger` or `bcn`.

A task is read from `config.json`, the vocabulary files and the names of the tensors; values are not read here.

Sources: AllenNLP `modules/text_field_embedders/basic_text_field_embedder.py`, `modules/token_embedders/*.py`,
`modules/seq2vec_encoders/cnn_encoder.py`, `modules/augmented_lstm.py`, `modules/conditional_random_field`,
`data/vocabulary.py`; allennlp-models `tagging/models/crf_tagger.py`,
`classification/models/biattentive_classification_network.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from elmo_hf import ElmoForSequenceClassification, ElmoForTokenClassification, ElmoPreTrainedModel

from ..common.content import read_text
from ..common.errors import CheckpointError, differences, listing
from ..common.options import OptionsReader

Array = NDArray[np.float32]
Options = dict[str, Any]

# Kinds of models that are converted completely, then other kinds that have been published with an ELMo.
KINDS: dict[str, type[ElmoPreTrainedModel]] = {
    "crf_tagger": ElmoForTokenClassification,
    "bcn": ElmoForSequenceClassification,
}
OTHER_KINDS = {
    "simple_tagger": "tagging without a random field",
    "esim": "textual entailment",
    "decomposable_attention": "textual entailment",
    "bidaf": "question answering",
    "bidaf-ensemble": "question answering",
    "dialog_qa": "question answering",
    "coref": "coreference resolution",
    "srl": "semantic role labeling",
    "biaffine_parser": "dependency parsing",
    "constituency_parser": "constituency parsing",
    "basic_classifier": "text classification",
}
# Activations with the same names in AllenNLP and here.
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "elu", "gelu", "leaky_relu")
SCHEMES = ("BIO", "BIOUL", "IOB1", "BMES")
# Our names of AllenNLP's `weight_strategy`.
STRATEGIES = {"emission": "emission", "emission_transition": "transition", "lannoy": "lannoy"}
# Names, absent from training data, of the tokens that AllenNLP's vocabularies lack.
UNKNOWN, PADDING, MASK = "@@UNKNOWN@@", "@@PADDING@@", "@@MASK@@"
BEGIN, END = "<S>", "</S>"
NEWLINE = "@@NEWLINE@@"


@dataclass(frozen=True)
class TaskEntry:
    """A parameter of a task model, and the stored tensors it is made of."""

    parameter: str
    originals: tuple[str, ...]
    make: Callable[..., Array] = lambda array: array


@dataclass
class Task:
    """A complete task model.

    Attributes:
        kind: AllenNLP's name of the model.
        fields: Fields of `ElmoConfig`, in addition to those of the biLM.
        entries: Conversion of the tensors outside of the `Elmo`.
        unread: Stored tensors with nothing to convert.
        labels: Labels in the order of the logits.
        tokenizer: Options of the tokenizer.
        notes: Sentences about assumptions, omissions and changes.
    """

    kind: str
    fields: Options = field(default_factory=dict)
    entries: list[TaskEntry] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    tokenizer: Options = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> type[ElmoPreTrainedModel]:
        """Class of the converted model."""
        return KINDS[self.kind]


def kind_of(config: Options) -> str | None:
    """The kind of model described by a configuration; `None` if it is not given."""
    model = config.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    return kind if isinstance(kind, str) else None


def refuse_kind(kind: str, file: str) -> None:
    """Raise a `CheckpointError` that describes a model of another kind, and what can be converted from it."""
    purpose = OTHER_KINDS.get(kind)
    raise CheckpointError(
        f"{file}: a model of type {kind!r}{f' ({purpose})' if purpose else ''}: expected {' or '.join(KINDS)}, which "
        "are converted whole. Its ELMo can be taken alone: --elmo-only"
    )


# -- Options ----------------------------------------------------------------------------------------------------------


class Settings(OptionsReader):
    """The options of one part of a model. Unsupported ones are refused, with their path in the file."""

    def __init__(self, values: Any, place: str, file: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: {place} is {values!r:.80}, expected an object")
        super().__init__(values, file, place)

    def part(self, name: str) -> "Settings":
        return Settings(self.values.get(name), f"{self.place}.{name}", self.file)

    def flag(self, name: str, default: bool) -> bool:
        return self.choice(name, (True, False), default)

    def several(self, name: str, count: int, kind: type) -> list[Any]:
        """Values for each of `count` layers, given as a list or as one value for all."""
        value = self.get(name)
        values = value if isinstance(value, list) else [value] * count
        if len(values) != count or any(not isinstance(one, kind) or isinstance(one, bool) for one in values):
            raise self.refuse(name, f"{count} values, or one for all layers")
        return values

    def nothing_else(self, *known: str) -> None:
        """Refuse options other than `known`, since they might change the computation."""
        unknown = sorted(name for name, value in self.values.items() if name not in known and value is not None)
        if unknown:
            raise CheckpointError(
                f"{self.file}: {self.place} has the options {listing(unknown)}, which this package cannot compute; "
                "take the model's ELMo alone: --elmo-only"
            )


# -- Vocabularies -----------------------------------------------------------------------------------------------------


def read_namespace(folder: Path, namespace: str) -> list[str]:
    r"""Read the lines of a vocabulary file as AllenNLP does, split at \n and \r\n only."""
    path = folder / "vocabulary" / f"{namespace}.txt"
    if "/" in namespace or not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected the vocabulary of {namespace!r} beside the weights")
    text = read_text(path, "one symbol per line")
    lines = re.split("\r?\n", text)
    return [line.replace(NEWLINE, "\n") for line in (lines[:-1] if lines[-1] == "" else lines)]


def _known(folder: Path, namespace: str) -> list[str]:
    """Symbols of a namespace after the unknown symbol in its first line; the n-th has index n + 1."""
    lines = read_namespace(folder, namespace)
    if not lines or lines[0] != UNKNOWN:
        found = repr(lines[0]) if lines else "nothing"
        raise CheckpointError(
            f"{folder / 'vocabulary' / namespace}.txt: begins with {found}, expected {UNKNOWN!r}: not a vocabulary "
            "that AllenNLP wrote for words"
        )
    return lines[1:]


# -- Parts ------------------------------------------------------------------------------------------------------------


@dataclass
class Input:
    """One part of the word vectors: its name, width and kind."""

    name: str
    width: int
    kind: Literal["elmo", "characters", "words"]


# Order of the parts in `ElmoTaskLayers`.
ORDER = ("elmo", "characters", "words")


def _columns(inputs: Sequence[Input]) -> NDArray[np.int64]:
    """Column in AllenNLP's input, whose parts are in the order of `inputs`, for every column of ours."""
    ends = np.cumsum([part.width for part in inputs])
    spans = {part.kind: range(int(end) - part.width, int(end)) for part, end in zip(inputs, ends, strict=True)}
    return np.array([column for kind in ORDER if kind in spans for column in spans[kind]], np.int64)


def _kind_of_part(settings: Any) -> str:
    """The type of a part of a text field."""
    return str(settings.get("type") or "embedding") if isinstance(settings, dict) else "embedding"


class _Reader:
    """Reader of one task; every method adds its results to `task`."""

    def __init__(
        self, task: Task, config: Options, file: str, folder: Path, shapes: Mapping[str, tuple[int, ...]], width: int
    ) -> None:
        self.task, self.file, self.folder, self.shapes = task, file, folder, shapes
        self.model = Settings(config.get("model"), "model", file)
        reader = Settings(config.get("dataset_reader"), "dataset_reader", file)
        indexers = reader.get("token_indexers", {"tokens": {"type": "single_id"}})
        self.indexers = Settings(indexers, "dataset_reader.token_indexers", file)
        # Width of ELMo's vectors, both directions.
        self.elmo_width = width
        self.inputs: list[Input] = []

    def add(self, parameter: str, *originals: str, make: Callable[..., Array] = lambda array: array) -> None:
        self.task.entries.append(TaskEntry(parameter, originals, make))

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        found = self.shapes.get(name)
        if found is None or len(found) != axes:
            raise CheckpointError(
                f"{self.file}: the weights {'lack' if found is None else 'have another shape of'} {name!r}, which the "
                "configuration asks for: they are not of this model"
            )
        return found

    # -- vectors of words

    def text_field(self, prefix: str) -> None:
        """Read the parts of a text field in AllenNLP's order, sorted by name."""
        embedders = self.model.part("text_field_embedder")
        # In AllenNLP 0.x, the embedders are not nested.
        values = embedders.values.get("token_embedders") or {
            name: value
            for name, value in embedders.values.items()
            if isinstance(value, dict) and name != "embedder_to_indexer_map"
        }
        read_by = {name: [name] for name in values}
        if embedders.get("embedder_to_indexer_map", read_by) != read_by:
            raise embedders.refuse("embedder_to_indexer_map", f"{read_by}: each part reads its own indexer")
        embedders.nothing_else("type", "token_embedders", "allow_unmatched_keys", "embedder_to_indexer_map", *values)
        kinds = [(name, _kind_of_part(values[name])) for name in sorted(values)]
        for name, kind in kinds:
            if len(same := [other for other, its in kinds if its == kind]) > 1:
                raise CheckpointError(
                    f"{self.file}: its text field has several parts of type {kind}, {', '.join(same)}: expected one "
                    "ELMo, table of words and character encoder at most; take its ELMo alone: --elmo-only"
                )
            settings = Settings(values[name], f"{embedders.place}.token_embedders.{name}", self.file)
            read = {
                "elmo_token_embedder": self.elmo_embedder,
                "character_encoding": self.character_encoding,
                "embedding": self.embedding,
            }.get(kind)
            if read is None:
                raise settings.refuse("type", "elmo_token_embedder, embedding or character_encoding")
            read(settings, name, f"{prefix}token_embedder_{name}.")

    def elmo_embedder(self, settings: Settings, name: str, prefix: str) -> None:
        if settings.get("projection_dim") is not None:
            raise settings.refuse("projection_dim", "none: a projection of ELMo's vectors is not converted")
        self.elmo_options(settings)
        self.inputs.append(Input(name, self.elmo_width, "elmo"))

    @staticmethod
    def elmo_options(settings: Settings) -> None:
        """Refuse options of an `Elmo` that change what a task reads of it; its reader takes the others."""
        settings.nothing_else(
            "type", "options_file", "weight_file", "num_output_representations", "requires_grad", "do_layer_norm",
            "dropout", "vocab_to_cache", "namespace_to_cache", "keep_sentence_boundaries", "scalar_mix_parameters",
        )  # fmt: skip
        if settings.flag("keep_sentence_boundaries", False):
            raise settings.refuse("keep_sentence_boundaries", "false: the task reads words only")

    def indexer(self, name: str, kind: str, namespace: str, *known: str) -> Settings:
        """The options of an indexer, whose type must be `kind`."""
        settings = self.indexers.part(name)
        if settings.get("type", "single_id") != kind:
            raise settings.refuse("type", repr(kind))
        settings.nothing_else("type", "namespace", "token_min_padding_length", *known)
        settings.values.setdefault("namespace", namespace)
        return settings

    def embedding(self, settings: Settings, name: str, prefix: str) -> None:
        """Read a word embedding. The tokenizer lists its words in the same order, after the boundaries."""
        if settings.get("projection_dim") is not None:
            raise settings.refuse("projection_dim", "none: a projection of word vectors is not converted")
        settings.nothing_else(
            "type", "embedding_dim", "num_embeddings", "pretrained_file", "trainable", "padding_index", "sparse",
            "scale_grad_by_freq", "norm_type", "vocab_namespace", "weight",
        )  # fmt: skip
        indexer = self.indexer(name, "single_id", "tokens", "lowercase_tokens")
        known = _known(self.folder, indexer.get("namespace"))
        rows, width = self.shape(f"{prefix}weight", 2)
        if rows < len(known) + 2:
            raise CheckpointError(f"{self.file}: {prefix}weight has {rows} rows for {len(known) + 2} words")
        self.inputs.append(Input(name, width, "words"))
        self.task.fields |= {"word_vector_size": width, "train_word_vectors": settings.flag("trainable", True)}
        # Words that are also sentence boundaries keep their row, but act as boundaries in texts.
        words = [BEGIN, END, UNKNOWN, *(word for word in known if word not in (BEGIN, END, UNKNOWN, PADDING, MASK))]
        index = {word: number for number, word in enumerate(known, 2)} | {UNKNOWN: 1}
        sources = [index.get(word, -1) for word in [PADDING, *words, MASK]]
        self.task.tokenizer |= {
            "vocab": words,
            "unk_token": UNKNOWN,
            "pad_token": PADDING,
            "mask_token": MASK,
            "lowercase_lookup": indexer.flag("lowercase_tokens", False),
        }

        def table(weight: Array) -> Array:
            # Rows of padding and boundaries, which are never read, are zero.
            return np.where(np.array(sources)[:, None] < 0, np.float32(0), weight[sources])

        self.add("task_layers.word_vectors.word_embeddings.weight", f"{prefix}weight", make=table)

    def character_encoding(self, settings: Settings, name: str, prefix: str) -> None:
        """Read a CNN over code points."""
        settings.nothing_else("type", "embedding", "encoder", "dropout")
        indexer = self.indexer(name, "characters", "token_characters", "min_padding_length", "character_tokenizer")
        tokenizer = indexer.get("character_tokenizer", {})
        Settings(tokenizer, f"{indexer.place}.character_tokenizer", self.file).nothing_else("type")
        known = _known(self.folder, indexer.get("namespace"))
        if (wrong := next((symbol for symbol in known if len(symbol) != 1), None)) is not None:
            raise CheckpointError(
                f"{self.folder / 'vocabulary'}: the characters hold {wrong!r}, expected single code points"
            )
        encoder = settings.part("encoder")
        if encoder.get("type") != "cnn":
            raise encoder.refuse("type", "'cnn'")
        encoder.nothing_else("type", "embedding_dim", "num_filters", "ngram_filter_sizes", "conv_layer_activation")
        widths = encoder.get("ngram_filter_sizes", [2, 3, 4, 5])
        if not isinstance(widths, list) or not widths or not all(type(one) is int and one > 0 for one in widths):
            raise encoder.refuse("ngram_filter_sizes", "a list of widths")
        if encoder.get("conv_layer_activation", "relu") not in ACTIVATIONS:
            raise encoder.refuse("conv_layer_activation", f"one of {', '.join(ACTIVATIONS)}")
        count = encoder.size("num_filters")
        rows, size = self.shape(f"{prefix}_embedding._module.weight", 2)
        if rows < len(known) + 2:
            raise CheckpointError(
                f"{self.file}: {prefix}_embedding._module.weight has {rows} rows for {len(known) + 2} characters"
            )
        self.inputs.append(Input(name, count * len(widths), "characters"))
        self.task.fields |= {
            "task_character_size": size,
            "num_task_characters": len(known) + 2,
            "task_character_filters": [[width, count] for width in widths],
            "task_character_activation": encoder.get("conv_layer_activation", "relu"),
        }
        self.task.tokenizer["code_point_set"] = known
        if rows > len(known) + 2:
            self.task.notes.append(
                f"left out {rows - len(known) - 2} rows of the table of characters, which no character uses"
            )

        def table(weight: Array) -> Array:
            kept = weight[: len(known) + 2].copy()
            kept[0] = 0.0
            return kept

        ours = "task_layers.characters."
        self.add(f"{ours}character_embeddings.weight", f"{prefix}_embedding._module.weight", make=table)
        for number in range(len(widths)):
            for part in ("weight", "bias"):
                self.add(f"{ours}convolutions.{number}.{part}", f"{prefix}_encoder._module.conv_layer_{number}.{part}")

    # -- layers

    def encoder(self, name: str, prefix: str, ours: str, columns: NDArray[np.int64] | None) -> tuple[str, int, int]:
        """Read a biLSTM; return our kind of cell, its size and its number of layers.

        Args:
            name: Name of the option.
            prefix: Prefix of the stored names.
            ours: Name of our layers.
            columns: Stored column for every column of our input; `None` if they are the same.
        """
        settings = self.model.part(name)
        kind = settings.get("type")
        size, layers = settings.size("hidden_size"), settings.size("num_layers", 1)
        known = ["type", "input_size", "hidden_size", "num_layers"]
        if kind == "lstm":
            settings.nothing_else(*known, "bidirectional", "dropout", "bias", "batch_first", "stateful")
            for option, value in (("bidirectional", True), ("bias", True), ("stateful", False)):
                if settings.flag(option, value if option != "bidirectional" else False) is not value:
                    raise settings.refuse(option, repr(value).lower())
            self._torch_lstm(prefix, ours, layers, columns)
            return "lstm", size, layers
        if kind != "stacked_bidirectional_lstm":
            raise settings.refuse("type", "'lstm' or 'stacked_bidirectional_lstm'")
        settings.nothing_else(
            *known, "use_highway", "recurrent_dropout_probability", "layer_dropout_probability", "stateful"
        )
        if settings.flag("stateful", False):
            raise settings.refuse("stateful", "false")
        has_highway = settings.flag("use_highway", True)
        self._augmented_lstm(prefix, ours, layers, columns, has_highway)
        self.task.fields["task_recurrent_dropout"] = settings.probability("recurrent_dropout_probability", 0.0)
        return "highway_lstm" if has_highway else "lstm", size, layers

    def _torch_lstm(self, prefix: str, ours: str, layers: int, columns: NDArray[np.int64] | None) -> None:
        for layer in range(layers):
            for side, suffix in (("forward", ""), ("backward", "_reverse")):
                cell, stored = f"{ours}.{layer}.{side}_lstm.", f"l{layer}{suffix}"
                self.add(f"{cell}input_proj.weight", f"{prefix}weight_ih_{stored}", make=_taking(layer, columns))
                self.add(
                    f"{cell}input_proj.bias", f"{prefix}bias_ih_{stored}", f"{prefix}bias_hh_{stored}", make=np.add
                )
                self.add(f"{cell}hidden_proj.weight", f"{prefix}weight_hh_{stored}")

    def _augmented_lstm(
        self, prefix: str, ours: str, layers: int, columns: NDArray[np.int64] | None, has_highway: bool
    ) -> None:
        # Names in AllenNLP 0.9 have no `.cell`.
        between = "cell." if f"{prefix}forward_layer_0.cell.input_linearity.weight" in self.shapes else ""
        for layer in range(layers):
            for side in ("forward", "backward"):
                cell, stored = f"{ours}.{layer}.{side}_lstm.", f"{prefix}{side}_layer_{layer}.{between}"
                bias = f"{stored}state_linearity.bias"
                if has_highway:
                    # The highway part of the input projection has no bias.
                    size = self.shape(bias, 1)[0] // 5
                    make = _padded_by(size)
                else:
                    make = _same
                self.add(f"{cell}input_proj.weight", f"{stored}input_linearity.weight", make=_taking(layer, columns))
                self.add(f"{cell}input_proj.bias", bias, make=make)
                self.add(f"{cell}hidden_proj.weight", f"{stored}state_linearity.weight")

    def feed_forward(
        self, settings: Settings, prefix: str, ours: str, columns: NDArray[np.int64] | None = None
    ) -> list[list[Any]]:
        """Read a feed-forward network; return `[width, activation]` of every layer."""
        settings.nothing_else("input_dim", "num_layers", "hidden_dims", "activations", "dropout")
        count = settings.size("num_layers")
        widths, names = settings.several("hidden_dims", count, int), settings.several("activations", count, str)
        if any(name not in ACTIVATIONS for name in names):
            raise settings.refuse("activations", f"of {', '.join(ACTIVATIONS)}")
        for number in range(count):
            stored = f"{prefix}_linear_layers.{number}."
            self.add(f"{ours}.{number}.weight", f"{stored}weight", make=_taking(number, columns))
            self.add(f"{ours}.{number}.bias", f"{stored}bias")
        return [[width, name] for width, name in zip(widths, names, strict=True)]

    def labels(self) -> list[str]:
        namespace = self.model.get("label_namespace", "labels")
        patterns = read_namespace(self.folder, "non_padded_namespaces")
        lines = read_namespace(self.folder, namespace)
        is_plain = any(namespace == one or (one.startswith("*") and namespace.endswith(one[1:])) for one in patterns)
        return lines if is_plain else [PADDING, *lines]


def _same(array: Array) -> Array:
    return array


def _taking(layer: int, columns: NDArray[np.int64] | None) -> Callable[[Array], Array]:
    """A function that reorders the columns of a first layer's weight to our order."""
    return _same if layer or columns is None else lambda weight: np.ascontiguousarray(weight[:, columns])


def _padded_by(size: int) -> Callable[[Array], Array]:
    return lambda bias: np.concatenate([bias, np.zeros(size, np.float32)])


# -- Models -----------------------------------------------------------------------------------------------------------


def read_task(config: Options, file: str, folder: Path, shapes: Mapping[str, tuple[int, ...]], elmo_width: int) -> Task:
    """Plan the conversion of a `crf_tagger` or `bcn`.

    Args:
        config: Content of `config.json`.
        file: Its name, for messages.
        folder: Folder of the archive's files.
        shapes: Shapes of the stored tensors outside of the `Elmo`.
        elmo_width: Width of ELMo's vectors, both directions.

    Raises:
        CheckpointError: another kind of model, an unsupported option, or tensors that do not match.
    """
    kind = kind_of(config)
    if kind not in KINDS:
        refuse_kind(str(kind), file)
    assert kind is not None
    task = Task(kind)
    reader = _Reader(task, config, file, folder, shapes, elmo_width)
    task.labels = reader.labels()
    names = dict(enumerate(task.labels))
    task.fields |= {
        "id2label": names,
        "label2id": {label: number for number, label in names.items()},
        "words_only": True,
        "task_forget_bias": 0.0,
        "scalar_mix_l2": _penalty(reader.model),
    }
    {"crf_tagger": _crf_tagger, "bcn": _bcn}[kind](reader)
    read = {name for entry in task.entries for name in entry.originals} | set(task.unread)
    if faults := differences(read, shapes, "not part of the model that config.json describes"):
        raise CheckpointError(f"{file}: {faults}. The configuration and the weights must be of one model")
    return task


def _penalty(model: Settings) -> float:
    """Coefficient of an L2 regularizer on the scalar mixes."""
    regularizer = model.get("regularizer", [])
    # In AllenNLP 0.x, the regularizer is the list of pairs itself.
    pairs = regularizer.get("regexes", []) if isinstance(regularizer, dict) else regularizer
    for pair in pairs if isinstance(pairs, list) else []:
        if isinstance(pair, list) and len(pair) == 2 and pair[0] == "scalar_parameters" and isinstance(pair[1], dict):
            alpha = pair[1].get("alpha", 0.01)
            if pair[1].get("type") == "l2" and isinstance(alpha, int | float) and alpha >= 0:
                return float(alpha)
    return 0.0


def _dropout_note(task: Task, **rates: float) -> None:
    others = {name: rate for name, rate in rates.items() if rate != task.fields["task_dropout"]}
    if others:
        listed = ", ".join(f"{name} {rate:g}" for name, rate in others.items())
        task.notes.append(
            f"for training: task_dropout={task.fields['task_dropout']:g} acts on the input of every layer of the task, "
            f"where the archive has {listed}"
        )


def _crf_tagger(reader: _Reader) -> None:
    task, model = reader.task, reader.model
    model.nothing_else(
        "type", "text_field_embedder", "encoder", "label_namespace", "feedforward", "label_encoding",
        "constraint_type", "include_start_end_transitions", "constrain_crf_decoding", "calculate_span_f1", "dropout",
        "verbose_metrics", "initializer", "regularizer", "top_k", "label_weights", "weight_strategy",
    )  # fmt: skip
    reader.text_field("text_field_embedder.")
    cell, size, layers = reader.encoder("encoder", "encoder._module.", "task_layers.layers", _columns(reader.inputs))
    task.fields |= {
        "elmo_at": ["input"],
        "task_encoder": cell,
        "task_lstm_size": size,
        "task_lstm_layers": layers,
        "task_dropout": model.probability("dropout", 0.0),
    }
    rates = {"encoder.dropout": model.part("encoder").probability("dropout", 0.0)} if layers > 1 else {}
    if model.get("feedforward") is not None:
        settings = model.part("feedforward")
        task.fields["classifier_layers"] = reader.feed_forward(settings, "_feedforward.", "hidden_layers.layers")
        dropouts = [0.0]
        if settings.get("dropout") is not None:
            dropouts = settings.several("dropout", settings.size("num_layers"), object)
        rates["feedforward.dropout"] = max(map(float, dropouts))
    _dropout_note(task, **rates)
    for part in ("weight", "bias"):
        reader.add(f"classifier.{part}", f"tag_projection_layer._module.{part}")
    _crf(reader)


def _crf(reader: _Reader) -> None:
    task, model = reader.task, reader.model
    encoding = model.get("label_encoding", model.get("constraint_type"))
    if encoding is not None and encoding not in SCHEMES:
        raise model.refuse("label_encoding", f"one of {', '.join(SCHEMES)}")
    is_constrained = model.flag("constrain_crf_decoding", encoding is not None)
    has_ends = model.flag("include_start_end_transitions", True)
    task.fields |= {
        "use_crf": True,
        "tag_scheme": encoding,
        "crf_constraints": "decoding" if is_constrained else "never",
        "crf_start_end_transitions": has_ends,
    }
    weights = model.get("label_weights")
    if weights is not None:
        strategy = STRATEGIES.get(model.get("weight_strategy", "emission"))
        if strategy is None:
            raise model.refuse("weight_strategy", f"one of {', '.join(STRATEGIES)}")
        values = model.part("label_weights").values
        task.fields |= {
            "crf_label_weights": [float(values.get(label, 1.0)) for label in task.labels],
            "crf_weight_strategy": strategy,
        }
        # The label weights are a copy of the configuration's.
        task.unread += [name for name in ("crf.label_weights",) if name in reader.shapes]
    for name in ("transitions", *(("start_transitions", "end_transitions") if has_ends else ())):
        reader.add(f"crf.{name}", f"crf.{name}")
    task.unread.append("crf._constraint_mask")


def _bcn(reader: _Reader) -> None:
    task, model = reader.task, reader.model
    model.nothing_else(
        "type", "text_field_embedder", "embedding_dropout", "pre_encode_feedforward", "encoder", "integrator",
        "integrator_dropout", "output_layer", "elmo", "use_input_elmo", "use_integrator_output_elmo", "initializer",
        "regularizer",
    )  # fmt: skip
    reader.text_field("_text_field_embedder.")
    if model.get("elmo") is not None:
        reader.elmo_options(model.part("elmo"))
    at = [
        place
        for place, option in (("input", "use_input_elmo"), ("output", "use_integrator_output_elmo"))
        if model.flag(option, False)
    ]
    if "input" in at:
        if any(part.kind == "elmo" for part in reader.inputs):
            raise model.refuse("use_input_elmo", "false beside an ELMo in the text field")
        reader.inputs.append(Input("elmo", reader.elmo_width, "elmo"))
    elif any(part.kind == "elmo" for part in reader.inputs):
        at.insert(0, "input")
    columns = _columns(reader.inputs)
    pre_encoder = model.part("pre_encode_feedforward")
    layers = reader.feed_forward(pre_encoder, "_pre_encode_feedforward.", "task_layers.pre_encoder.layers", columns)
    cell, size, count = reader.encoder("encoder", "_encoder._module.", "task_layers.layers", None)
    other, integrator_size, integrator_layers = reader.encoder(
        "integrator", "_integrator._module.", "task_layers.integrator", None
    )
    if cell != other:
        raise CheckpointError(f"{reader.file}: model.encoder and model.integrator are of two kinds, expected one")
    task.fields |= {
        "elmo_at": at,
        "pre_encoder_layers": layers,
        "task_encoder": cell,
        "task_lstm_size": size,
        "task_lstm_layers": count,
        "integrator_size": integrator_size,
        "integrator_layers": integrator_layers,
        "pooling": ["max", "min", "mean", "attention"],
        "task_dropout": model.probability("embedding_dropout", 0.0),
        "problem_type": "single_label_classification",
    }
    reader.add("sentence_encoder.pooling.attention.weight", "_self_attentive_pooling_projection.weight")
    # This bias adds the same number to the score of every word, which the softmax cancels.
    task.unread.append("_self_attentive_pooling_projection.bias")
    _output_layer(reader)
    _dropout_note(task, integrator_dropout=model.probability("integrator_dropout", 0.0))


def _output_layer(reader: _Reader) -> None:
    task, settings = reader.task, reader.model.part("output_layer")
    if settings.get("pool_sizes") is not None:
        settings.nothing_else("input_dim", "num_layers", "output_dims", "pool_sizes", "dropout")
        count = settings.size("num_layers")
        widths, pools = settings.several("output_dims", count, int), settings.several("pool_sizes", count, int)
        if len(set(pools)) != 1:
            raise settings.refuse("pool_sizes", "one size for all layers")
        task.fields |= {"maxout_sizes": widths[:-1], "maxout_pieces": pools[0], "maxout_classifier": True}
        ours = [f"sentence_encoder.maxout.{number}.linear" for number in range(count - 1)] + ["classifier.linear"]
        for number, name in enumerate(ours):
            for part in ("weight", "bias"):
                reader.add(f"{name}.{part}", f"_output_layer._linear_layers.{number}.{part}")
        return
    before = len(task.entries)
    layers = reader.feed_forward(settings, "_output_layer.", "sentence_encoder.hidden_layers.layers")
    if layers[-1][1] != "linear":
        raise settings.refuse("activations", "'linear' for the last layer, which gives the logits")
    task.fields["classifier_layers"] = layers[:-1]
    last = f"sentence_encoder.hidden_layers.layers.{len(layers) - 1}."
    task.entries[before:] = [
        TaskEntry(entry.parameter.replace(last, "classifier."), entry.originals, entry.make)
        for entry in task.entries[before:]
    ]


def check_constraints(mask: Array, forbidden: NDArray[np.bool_], file: str) -> None:
    """Raise `CheckpointError` if the stored constraints of an archive do not match its scheme.

    Args:
        mask: `crf._constraint_mask`, (L + 2, L + 2); row L is the beginning of a sentence, column L + 1 its end.
        forbidden: (L + 1, L + 1), from `forbidden_transitions`.
        file: Name of the file, for messages.
    """
    stored = np.delete(np.delete(mask, -1, axis=0), -2, axis=1) == 0
    # The transition from beginning to end, an empty sentence, is not compared.
    stored[-1, -1] = forbidden[-1, -1] = False
    if not np.array_equal(stored, forbidden):
        raise CheckpointError(
            f"{file}: crf._constraint_mask is not what its label_encoding and labels give: the model was trained with "
            "other constraints; take its ELMo alone: --elmo-only"
        )
