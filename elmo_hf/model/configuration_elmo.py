"""Configuration of ELMo: one flat set of strictly typed fields.

The defaults are those of the published *original* model (Peters et al. 2018, section 3.4, and its released
`options.json`). `ElmoConfig.from_preset` gives the other published shapes.
"""

import copy
import math
import os
import reprlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import field, fields
from typing import Any, Literal, cast

import transformers

# Checked first, because a checkpoint's code runs with whatever is installed and the imports below need these versions.
if not (5, 17) <= tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (6, 0):
    raise ImportError(
        f"ELMo needs transformers>=5.17,<6, and {transformers.__version__} is installed: "
        "pip install 'transformers>=5.17,<6'"
    )

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .installed import package_part

# Widths and filter counts shared by every published character model (their `options.json`, `char_cnn.filters`).
PUBLISHED_FILTERS = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]]

PRESETS: dict[str, dict[str, Any]] = {
    # 3 million parameters without the softmax, for pretraining on a CPU.
    "mini": {
        "character_filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256]],
        "cell_size": 512,
        "projection_size": 128,
        "num_highway_layers": 1,
    },
    "small": {"cell_size": 1024, "projection_size": 128, "num_highway_layers": 1},
    "medium": {"cell_size": 2048, "projection_size": 256, "num_highway_layers": 1},
    "original": {"cell_size": 4096, "projection_size": 512, "num_highway_layers": 2},
    # Same shape as `original`, trained on 5.5 billion words.
    "5.5B": {"cell_size": 4096, "projection_size": 512, "num_highway_layers": 2},
    # AllenNLP's Transformer ELMo of January 2019 (Peters et al. 2018b).
    "transformer": {
        "encoder_type": "transformer",
        "projection_size": 512,
        "feed_forward_size": 2048,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "num_highway_layers": 2,
        "character_layer_norm": True,
    },
    # Without characters: a small vocabulary of word embeddings, 128 wide, projected to 512.
    "transformer-words": {
        "encoder_type": "transformer",
        "vocab_size": 10_000,
        "character_filters": [],
        "word_embedding_size": 128,
        "projection_size": 512,
        "feed_forward_size": 2048,
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
    },
}

# Activations of a task's feed-forward layers (`feed_forward.ACTIVATIONS`).
ACTIVATION_NAMES = ("linear", "relu", "tanh", "sigmoid", "elu", "gelu", "leaky_relu")
# `max_position_embeddings` of a biLSTM, for clients that truncate texts to it.
NO_LIMIT = 2**31 - 1

# Limits that refuse a malicious configuration, whose modules would take hours to construct.
MAX_SIZE, MAX_LAYERS, MAX_LABELS, MAX_CHARACTERS_PER_WORD = 2**31 - 1, 1000, 10**6, 10_000

# All classes that can be loaded from a checkpoint's own code. `save_pretrained` writes only the entry of the class that
# is saved; without the others, a fine-tuned tagger could not be loaded as a plain `AutoModel`.
HEADS = "CausalLM MaskedLM MultipleChoice PreTraining QuestionAnswering SequenceClassification TokenClassification"
AUTO_MAP = {
    "AutoConfig": "configuration_elmo.ElmoConfig",
    "AutoModel": "modeling_elmo.ElmoModel",
    **{f"AutoModelFor{task}": f"modeling_elmo.ElmoFor{task}" for task in HEADS.split()},
}


# A condition on a field's value, and its wording in the error message.
Rule = tuple[Callable[[Any], bool], str]
POSITIVE: Rule = (lambda value: 1 <= value <= MAX_SIZE, f"at least 1 and at most {MAX_SIZE}")
NOT_NEGATIVE: Rule = (lambda value: not value < 0, "0 or more")
FINITE: Rule = (math.isfinite, "a finite number")
ABOVE_ZERO: Rule = (lambda value: 0 < value < math.inf, "a finite number above 0")
BOUND: Rule = (lambda value: value is None or value >= 0, "a bound of 0 or more, or None for no clipping")
PROBABILITY: Rule = (lambda value: 0 <= value < 1, "a probability in [0, 1)")
WORD_LENGTH: Rule = (
    lambda value: 3 <= value <= MAX_CHARACTERS_PER_WORD,
    f"at least 3, the two word boundaries and one character, and at most {MAX_CHARACTERS_PER_WORD}",
)
FEW: Rule = (
    lambda value: value is None or (len(value) if isinstance(value, list) else value) <= MAX_LAYERS,
    f"at most {MAX_LAYERS}, or a list of at most {MAX_LAYERS} entries",
)
DISTINCT: Rule = (lambda values: len(set(values)) == len(values), "each value at most once")
WIDTHS: Rule = (lambda values: all(value >= 1 for value in values), "widths of at least 1")
WEIGHTS: Rule = (lambda values: all(0 <= each < math.inf for each in values or []), "finite numbers of 0 or more")
ACTIVATION: Rule = (ACTIVATION_NAMES.__contains__, f"one of {', '.join(ACTIVATION_NAMES)}")


def ruled(default: Any, *rules: Rule) -> Any:
    """Dataclass field with rules for its value; a default list is copied for each configuration."""
    if isinstance(default, list):
        return field(default_factory=lambda: copy.deepcopy(default), metadata={"rules": rules})
    return field(default=default, metadata={"rules": rules})


@strict
class ElmoConfig(PreTrainedConfig):
    r"""Configuration of an [`ElmoModel`] and its task models.

    Fields of the encoder that `encoder_type` does not select are kept and have no effect.

    Args:
        vocab_size: Number of word ids, `len(tokenizer)`: padding, the words of the vocabulary file, the mask. A
            character model needs it for the language model's softmax only, a word model for its word embeddings too.
        word_embedding_size: Width of the word embeddings; 0 for none. They replace the characters if
            `character_filters` is empty (bilm-tf's models without `char_cnn`); otherwise both are concatenated
            (ELMoForManyLangs). If the width differs from `projection_size`, a linear layer projects to it.
        num_pos_tags: Number of POS tags whose embeddings are concatenated to every word; 0 for none. Their ids are 1 to
            `num_pos_tags`, in the order of the tokenizer's `pos_tag_set`; id 0 stands for no tag.
        pos_tag_embedding_size: Width of a POS tag's embedding.
        num_characters: Rows of the character table: 256 bytes, word and sentence boundaries, padding characters, and
            id 0 for padded words (bilm-tf stores the 261 rows without the last one). For a tokenizer with a character
            dictionary, `tokenizer.num_characters`.
        max_characters_per_word: Length of a row of `character_ids`, word boundary characters included.
        character_embedding_size: Width of a character vector.
        character_filters: `[width, count]` of each convolution over characters; empty for a word model.
        character_activation: Non-linearity after max-pooling: `"relu"` (published models) or `"tanh"`.
        num_highway_layers: Highway layers over the concatenated filters.
        character_projection: Whether the filters are projected to `projection_size`. `None` derives it as bilm-tf does:
            only if the sizes differ. It is false if characters are concatenated with other word parts, because these
            are projected together.
        character_projection_location: Position of that projection: after the highway layers (bilm-tf), or after the
            convolutions (`projection_location` of AllenNLP's language models).
        character_layer_norm: Whether layer norm is applied to the output of the character CNN (`do_layer_norm` of
            AllenNLP's language models), with `layer_norm_epsilon`.
        projection_size: Width of a word vector and of each direction's output, P.
        encoder_type: `"lstm"`, the biLSTM of the paper, or `"transformer"`, a forward and a backward stack of causal
            Transformer layers (Peters et al. 2018b).
        bidirectional: biLSTM: whether there is a backward direction. False for a forward language model (bilm-tf's
            option of this name), whose layers are `projection_size` wide.
        cell_size: Width of each LSTM cell, H (`lstm.dim` in `options.json`).
        num_hidden_layers: Layers in each direction, of either encoder.
        cell_projection: Whether the cell output is projected from `cell_size` to `projection_size`. `None` derives
            it as bilm-tf does: only if the sizes differ.
        use_skip_connections: Whether layer l >= 1 adds its input to its output.
        cell_clip: Bound of the absolute cell value, applied before the output gate; `None` for none.
        projection_clip: Bound of the absolute projected output; `None` for none.
        forget_bias: Constant added to the forget gate at run time: 1.0 for TensorFlow checkpoints, whose stored bias
            excludes it, and 0.0 for those whose bias includes it (AllenNLP). A field of its own, because adding and
            subtracting 1.0 in float32 would round the stored bias.
        lstm_input_dropout: Element-wise dropout on the inputs of every LSTM layer, in training (bilm-tf: 0.1 when
            pretraining; AllenNLP: none when fine-tuning).
        num_attention_heads: Transformer: attention heads of each layer, a divisor of `projection_size` (AllenNLP:
            always 8).
        feed_forward_size: Transformer: width of the hidden layer of the feed-forward block.
        max_position_embeddings: Transformer: words of the longest sentence, boundaries included; 5000 by default, as in
            AllenNLP. Always 2 ** 31 - 1 for a biLSTM, which has no limit; an integer, because clients take the minimum
            of it and the tokenizer's limit.
        layer_norm_epsilon: Added to the standard deviation in the layer norms of the Transformer and of the character
            CNN (AllenNLP up to 0.9: 1e-6; from 1.0 on: 1e-13).
        transformer_input_dropout: Transformer: dropout on the word vectors after the positions are added, in training.
        attention_dropout: Transformer: dropout on the attention weights, in training.
        transformer_dropout: Transformer: dropout inside the feed-forward block and on the output of each sublayer, in
            training.
        softmax_dropout: Transformer: dropout on the top layer before a language model's softmax, in training. That of
            a biLSTM is `lstm_input_dropout`, as in bilm-tf.
        context_word_layer: biLSTM: whether each direction has a fully connected layer g(h_t, w_t) =
            tanh(W [h_t; w_t] + b) on top, where h_t is the direction's top output and w_t the word it has just read. It
            is the last layer of the representations and the input of the softmax.
        causal: Transformer: whether each direction attends only to the words it has already read, as a language model
            must. False for a plain bidirectional encoder, whose stacks both attend to the whole sentence.
        aligned: Whether each layer is mapped to the space of another language's model by a matrix saved with the
            weights ([`elmo_hf.alignment`]). Mixes and task heads read the mapped layers. A language model cannot: load
            it with `aligned=False`.
        weight_precision: `"int8"` for a model quantized by [`elmo_hf.quantize`], `None` for floating point. Describes
            the saved weights and cannot be chosen when loading.
        num_representations: Number K of independent scalar mixes.
        scalar_mix: `"learned"` weights, `"fixed"` weights, or the `"top"` layer only.
        scalar_mix_parameters: The `num_mixed_layers` initial weights of every mix *before* the softmax; with `"fixed"`
            neither they nor gamma are trained. `None` for zeros (the average).
        scalar_mix_layer_norm: Normalize each layer by its mean and variance over the whole batch before mixing.
            `"words"` counts words without sentence boundaries, as bilm-tf does; `"tokens"` counts the boundaries too,
            as AllenNLP does; `None` for none.
        scalar_mix_layer_norm_epsilon: Added to the variance (bilm-tf 1e-12, AllenNLP 1e-13).
        scalar_mix_l2: Coefficient lambda of the penalty lambda * sum(s ** 2) on the raw mixing weights, which task
            models add to their loss (paper, section 3.4: 0.001).
        representation_dropout: Dropout on every mixed representation, in training (AllenNLP's `Elmo`: 0.5).
        softmax_cutoffs: Frequency ranks where the clusters of rarer words begin, for a language model with an adaptive
            softmax (Grave et al. 2017), which no original format supports. `None` for the plain softmax.
        tie_word_embeddings: Whether the softmax of a word model shares its weight with the word embeddings (bilm-tf's
            `share_embedding_softmax`).
        mask_token_id: Id of the mask, which is not a word and has no probability. The tokenizer puts the mask after the
            words, so set `mask_token_id=tokenizer.mask_token_id` together with `vocab_size=len(tokenizer)`. `None` if
            no tokenizer is known.
        direction: Reading direction of a causal language model: `"forward"`, or `"backward"`, from a sentence's last
            word to its first.
        mask_prior_weight: Exponent of the unigram prior (Zipf's law over the order of the vocabulary) by which a masked
            language model divides the product of both directions' distributions. 1 is Bayes' rule for independent
            contexts. 0 is the plain product, needed for a vocabulary that is not ordered by frequency.
        sparse_prediction: Whether a masked language model with labels returns logits at the labeled positions only, as
            ModernBERT does: with a large vocabulary, logits at every position take gigabytes.
        elmo_at: Places where a task model reads ELMo (paper, section 3.2): the `"input"` of its own layers, their
            `"output"`, or both, each with its own mix. Empty for a task model without a biLM, the paper's baseline,
            which needs `word_vector_size`.
        word_vector_size: Width of a task model's own word vectors, looked up by `input_ids` in a table of `vocab_size`
            rows and concatenated to ELMo at the input: GloVe, word2vec, or learned with the task. 0 for none.
        train_word_vectors: Whether those vectors are trained.
        task_lstm_size: Width of each direction of a task model's own biLSTM; 0 for none.
        task_lstm_layers: Number of its layers.
        task_encoder: Its cell: `"lstm"`, or `"highway_lstm"` with a highway connection around it (AllenNLP's
            `stacked_bidirectional_lstm`).
        task_forget_bias: Constant added to its forget gate at run time; 0.0 for AllenNLP's.
        task_recurrent_dropout: Variational dropout on the cell's output and so on the recurrent state: one mask
            for all words of a sentence, in training.
        words_only: Whether the biLSTM of a tagger, or of a classifier of single sentences, skips the vectors of `<S>`
            and `</S>`, as in the paper.
        task_character_size: Width of a code point's embedding in the task's own character CNN, whose output is
            concatenated to ELMo at the input; 0 for none.
        num_task_characters: Rows of its embedding table, `tokenizer.num_code_points`.
        task_character_filters: `[width, count]` of each of its convolutions.
        task_character_activation: Activation after them, a name as in `pre_encoder_layers`.
        pre_encoder_layers: `[width, activation]` of feed-forward layers between the word vectors and the biLSTM. An
            activation is `"linear"`, `"relu"`, `"tanh"`, `"sigmoid"`, `"elu"`, `"gelu"` or `"leaky_relu"`.
        classifier_layers: The same before the classifier of every word or of a pooled text.
        integrator_size: Width of each direction of a second biLSTM, over the biattention of the sentence with itself
            (McCann et al. 2017, section 4); 0 for none.
        integrator_layers: Number of its layers.
        task_dropout: Dropout on the input of each of a task model's own layers, in training.
        use_crf: Whether a tagger has a conditional random field (CRF) over its tag sequences.
        tag_scheme: Scheme of a tagger's tags: `"BIO"` (IOB2), `"BIOES"`, `"BIOUL"`, `"BMES"` or `"IOB1"`; `None` for
            other labels. A CRF forbids the transitions that the scheme excludes.
        tag_names: The tags of `tag_scheme` in the order of the logits, set by the tagger. `id2label` then holds the
            equivalent BIO tags, from which Transformers' pipeline builds entities.
        crf_constraints: When the transitions that `tag_scheme` excludes are forbidden: `"always"`, in `"decoding"` only
            (as in AllenNLP), or `"never"`.
        crf_start_end_transitions: Whether the CRF scores the first and the last tag of a sentence.
        crf_label_weights: Weight of each label in the CRF's loss, in the order of the logits; `None` for none.
        crf_weight_strategy: Scores that they scale: `"emission"`, `"transition"` (and emissions), or `"lannoy"`, each
            word's factor of the probability (de Lannoy et al. 2012).
        pooling: Methods that pool a sentence's words to one vector; the results of several are concatenated.
        maxout_sizes: Widths of a sentence classifier's maxout layers (McCann et al. 2017, section 4), as in the
            paper's sentiment model; empty for none.
        maxout_pieces: Number of linear maps per maxout unit.
        maxout_classifier: Whether the classifier of a sentence is itself a maxout layer, as in McCann et al.
        sentence_pairs: Whether a sentence classifier pools the two sentences of a pair separately and compares them.

    Raises:
        ValueError: a value out of range, or fields that contradict each other; the message names the fields and values.
    """

    model_type = "elmo"
    _auto_class = "AutoConfig"
    keys_to_ignore_at_inference = ["representations", "state", "emissions", "past_key_values", "cache"]

    vocab_size: int = ruled(5, NOT_NEGATIVE)
    word_embedding_size: int = ruled(0, NOT_NEGATIVE)
    num_pos_tags: int = ruled(0, NOT_NEGATIVE)
    pos_tag_embedding_size: int = ruled(32, POSITIVE)
    num_characters: int = ruled(262, POSITIVE)
    max_characters_per_word: int = ruled(50, WORD_LENGTH)
    character_embedding_size: int = ruled(16, POSITIVE)
    character_filters: list[list[int]] = ruled(PUBLISHED_FILTERS, FEW)
    character_activation: Literal["relu", "tanh"] = "relu"
    num_highway_layers: int = ruled(2, FEW, NOT_NEGATIVE)
    character_projection: bool | None = None
    character_projection_location: Literal["after_highway", "after_cnn"] = "after_highway"
    character_layer_norm: bool = False
    projection_size: int = ruled(512, POSITIVE)
    encoder_type: Literal["lstm", "transformer"] = "lstm"
    bidirectional: bool = True
    cell_size: int = ruled(4096, POSITIVE)
    num_hidden_layers: int = ruled(2, POSITIVE, FEW)
    cell_projection: bool | None = None
    use_skip_connections: bool = True
    cell_clip: float | int | None = ruled(3.0, BOUND)
    projection_clip: float | int | None = ruled(3.0, BOUND)
    forget_bias: float | int = ruled(1.0, FINITE)
    lstm_input_dropout: float | int = ruled(0.0, PROBABILITY)
    num_attention_heads: int = ruled(8, POSITIVE)
    feed_forward_size: int = ruled(2048, POSITIVE)
    max_position_embeddings: int = 5000
    layer_norm_epsilon: float | int = ruled(1e-6, ABOVE_ZERO)
    transformer_input_dropout: float | int = ruled(0.0, PROBABILITY)
    attention_dropout: float | int = ruled(0.0, PROBABILITY)
    transformer_dropout: float | int = ruled(0.0, PROBABILITY)
    softmax_dropout: float | int = ruled(0.0, PROBABILITY)
    context_word_layer: bool = False
    causal: bool = True
    aligned: bool = False
    weight_precision: Literal["int8"] | None = None
    num_representations: int = ruled(1, POSITIVE, FEW)
    scalar_mix: Literal["learned", "fixed", "top"] = "learned"
    scalar_mix_parameters: list[float | int] | None = None
    scalar_mix_layer_norm: Literal["words", "tokens"] | None = None
    scalar_mix_layer_norm_epsilon: float | int = ruled(1e-12, NOT_NEGATIVE, FINITE)
    scalar_mix_l2: float | int = ruled(0.0, NOT_NEGATIVE, FINITE)
    representation_dropout: float | int = ruled(0.5, PROBABILITY)
    softmax_cutoffs: list[int] | None = ruled(None, FEW)
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    unk_token_id: int | None = 3
    mask_token_id: int | None = None
    tie_word_embeddings: bool = False
    direction: Literal["forward", "backward"] = "forward"
    mask_prior_weight: float | int = ruled(1.0, NOT_NEGATIVE, FINITE)
    sparse_prediction: bool = False
    # Fields of task models.
    elmo_at: list[Literal["input", "output"]] = ruled(["input"], DISTINCT)
    word_vector_size: int = ruled(0, NOT_NEGATIVE)
    train_word_vectors: bool = True
    task_lstm_size: int = ruled(0, NOT_NEGATIVE)
    task_lstm_layers: int = ruled(1, POSITIVE, FEW)
    task_encoder: Literal["lstm", "highway_lstm"] = "lstm"
    task_forget_bias: float | int = ruled(1.0, FINITE)
    task_recurrent_dropout: float | int = ruled(0.0, PROBABILITY)
    words_only: bool = False
    task_character_size: int = ruled(0, NOT_NEGATIVE)
    num_task_characters: int = ruled(2, POSITIVE)
    task_character_filters: list[list[int]] = ruled([[3, 128]], FEW)
    task_character_activation: str = ruled("relu", ACTIVATION)
    pre_encoder_layers: list[list[int | str]] = ruled([], FEW)
    classifier_layers: list[list[int | str]] = ruled([], FEW)
    integrator_size: int = ruled(0, NOT_NEGATIVE)
    integrator_layers: int = ruled(1, POSITIVE, FEW)
    task_dropout: float | int = ruled(0.0, PROBABILITY)
    use_crf: bool = False
    tag_scheme: Literal["BIO", "BIOES", "BIOUL", "BMES", "IOB1"] | None = None
    tag_names: list[str] | None = None
    crf_constraints: Literal["always", "decoding", "never"] = "always"
    crf_start_end_transitions: bool = True
    crf_label_weights: list[float | int] | None = ruled(None, WEIGHTS)
    crf_weight_strategy: Literal["emission", "transition", "lannoy"] = "emission"
    pooling: list[Literal["mean", "max", "min", "attention"]] = ruled(["mean"], DISTINCT)
    maxout_sizes: list[int] = ruled([], FEW, WIDTHS)
    maxout_pieces: int = ruled(4, POSITIVE)
    maxout_classifier: bool = False
    sentence_pairs: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        width = kwargs.pop("hidden_size", None)
        if width is not None and width != self.hidden_size:
            raise ValueError(
                f"hidden_size={width}: expected {self.hidden_size}, which follows from other fields, as projection_size"
            )
        if self.encoder_type == "lstm":
            self.max_position_embeddings = NO_LIMIT
        elif self.max_position_embeddings == NO_LIMIT:  # a saved biLSTM's
            self.max_position_embeddings = 5000
        self.character_filters = [list(pair) for pair in self.character_filters]
        if self.character_projection is None:
            alone = bool(self.character_filters) and not self.joins_words
            self.character_projection = alone and self.num_filters != self.projection_size
        if self.cell_projection is None:
            self.cell_projection = self.cell_size != self.projection_size
        # Each place that reads ELMo has its own mix.
        self.num_representations = max(self.num_representations, len(self.elmo_at))
        kwargs.setdefault("auto_map", dict(AUTO_MAP))
        super().__post_init__(**kwargs)

    @property
    def special_word_ids(self) -> list[int]:
        """Ids that stand for no word of a text: the sentence boundaries and the unknown word."""
        ids = (self.bos_token_id, self.eos_token_id, self.unk_token_id)
        return [number for each in ids for number in (each if isinstance(each, list) else [each]) if number is not None]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Load a configuration; arguments as in `PreTrainedConfig.from_pretrained`.

        With `elmo_hf` installed, errors name the damaged file.
        """
        damage_named = getattr(package_part("folders"), "damage_named", nullcontext)
        with damage_named(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration; arguments as in `PreTrainedConfig.from_dict`.

        Keyword arguments replace fields before validation. Transformers would set them afterwards, one by one, so that
        derived fields would be stale and contradictions go unnoticed.

        Raises:
            ValueError: as the constructor; also a change of `weight_precision`.
        """
        replaced = {name: kwargs.pop(name) for name in list(kwargs) if name in ElmoConfig.__annotations__}
        count = config_dict.get("num_labels")
        if isinstance(count, int) and count > MAX_LABELS:
            raise ValueError(f"num_labels={count}: expected at most {MAX_LABELS}")
        derived = ("hidden_size", "model_type")
        config_dict = {name: value for name, value in config_dict.items() if name not in derived}
        saved = config_dict.get("weight_precision")
        if replaced.get("weight_precision", saved) != saved:
            raise ValueError(
                f"weight_precision={replaced['weight_precision']!r}: expected that of the saved weights, {saved!r}; "
                "load them as they are and quantize a floating-point model with elmo_hf.quantize(model)"
            )
        return super().from_dict({**config_dict, **replaced}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict, with `hidden_size`, which clients read from `config.json`."""
        return {**super().to_dict(), "hidden_size": self.hidden_size}

    @property
    def num_filters(self) -> int:
        """Width F of the concatenated character filters."""
        return sum(pair[-1] for pair in self.character_filters)

    @property
    def joins_words(self) -> bool:
        """True if the word layer concatenates several parts: word embeddings, characters, POS tags."""
        return bool(self.word_embedding_size) + bool(self.character_filters) + bool(self.num_pos_tags) > 1

    @property
    def num_mixed_layers(self) -> int:
        """Number of layers that a mix weighs: N + 1, and one more with `context_word_layer`."""
        return self.num_hidden_layers + 1 + self.context_word_layer

    @property
    def top_layer_dropout(self) -> float | int:
        """Dropout on the top layer before a language model's softmax."""
        return self.softmax_dropout if self.encoder_type == "transformer" else self.lstm_input_dropout

    def set_dropout(self, rate: float) -> None:
        """Set all dropout rates of the biLM to one value, as both originals do in pretraining."""
        names = {
            "lstm": ("lstm_input_dropout",),
            "transformer": ("transformer_input_dropout", "attention_dropout", "transformer_dropout", "softmax_dropout"),
        }
        for name in names[self.encoder_type]:
            setattr(self, name, rate)

    @property
    def label_names(self) -> list[str]:
        """Labels of a task model in the order of its logits: `tag_names`, or else those of `id2label`."""
        names = cast("dict[int, str]", self.id2label)
        return list(self.tag_names or (names[index] for index in range(len(names))))

    @property
    def of_bilm(self) -> "ElmoConfig":
        """Configuration of a task model's biLM: this object, except in an [`ElmoTaskEncoder`]."""
        return self

    @property
    def elmo_size(self) -> int:
        """Width of the biLM's layers and mixes: `projection_size` for each direction."""
        return (1 + self.bidirectional) * self.projection_size

    @property
    def task_layers_size(self) -> int:
        """Width of the features that the task's own layers return."""
        characters = sum(pair[-1] for pair in self.task_character_filters) if self.task_character_size else 0
        inputs = self.elmo_size * ("input" in self.elmo_at) + characters + self.word_vector_size
        own = 2 * (self.integrator_size or self.task_lstm_size) or inputs
        return own + self.elmo_size * ("output" in self.elmo_at)

    @property
    def hidden_size(self) -> int:
        """Width of the model's `last_hidden_state`, as Transformers calls it."""
        return self.elmo_size

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "ElmoConfig":
        """The configuration of a published model: `"small"`, `"medium"`, `"original"`, `"5.5B"` or `"transformer"`.

        Further presets are `"mini"`, a small model for pretraining on a CPU, and `"transformer-words"`, the Transformer
        with word embeddings in place of characters.

        Args:
            name: a key of `PRESETS`.
            overrides: values of single fields, for instance `vocab_size` or `num_representations`.

        Raises:
            ValueError: an unknown name.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(map(repr, PRESETS))}")
        return cls(**{**PRESETS[name], **overrides})

    def validate_architecture(self) -> None:
        """Refuse impossible configurations before anything is allocated; called by the `@strict` validation."""
        for each in fields(self):
            for is_possible, expected in each.metadata.get("rules", ()):
                value = getattr(self, each.name)
                if not is_possible(value):
                    raise ValueError(f"{each.name}={reprlib.repr(value)}: expected {expected}")
        self._validate_words()
        self._validate_encoder()
        self._validate_task()
        for name in ("character_filters", "task_character_filters"):
            for pair in getattr(self, name):
                if len(pair) != 2 or min(pair) < 1:
                    raise ValueError(f"{name} holds {pair}: expected [width, count], both at least 1")
        for pair in self.character_filters:
            if pair[0] > self.max_characters_per_word:
                raise ValueError(
                    f"character_filters holds {pair}, wider than a word of "
                    f"max_characters_per_word={self.max_characters_per_word}"
                )
        unprojected = self.character_filters and not self.character_projection and not self.joins_words
        if unprojected and self.num_filters != self.projection_size:
            raise ValueError(
                f"character_projection=False needs as many filters as projection_size={self.projection_size}, "
                f"and character_filters has {self.num_filters}"
            )
        if self.cell_projection is False and self.cell_size != self.projection_size:
            raise ValueError(
                f"cell_projection=False needs cell_size == projection_size, got {self.cell_size} and "
                f"{self.projection_size}"
            )
        count = self.num_mixed_layers
        if self.scalar_mix_parameters is not None and len(self.scalar_mix_parameters) != count:
            raise ValueError(
                f"scalar_mix_parameters has {len(self.scalar_mix_parameters)} values: expected {count}, one for the "
                "word layer and one for each layer above it"
            )
        if self.scalar_mix == "fixed" and self.scalar_mix_parameters is None:
            raise ValueError('scalar_mix="fixed" needs scalar_mix_parameters, one value per layer')

    def _validate_encoder(self) -> None:
        """Check the fields that only one of the encoders supports."""
        if not self.bidirectional and (self.encoder_type != "lstm" or self.context_word_layer):
            raise ValueError(
                'bidirectional=False needs encoder_type="lstm" and context_word_layer=False: no other model has a '
                "single direction"
            )
        if not self.bidirectional and self.direction == "backward":
            raise ValueError('direction="backward" of a model with bidirectional=False: expected "forward"')
        if self.encoder_type == "lstm":
            if not self.causal:
                raise ValueError(
                    'causal=False needs encoder_type="transformer": an LSTM reads the words one after the other and '
                    "cannot see later ones"
                )
        elif self.context_word_layer:
            raise ValueError(
                'context_word_layer=True needs encoder_type="lstm": the residual connections of a Transformer already '
                "add the word to its top layer; set context_word_layer=False"
            )
        elif self.max_position_embeddings < 1:
            raise ValueError(f"max_position_embeddings={self.max_position_embeddings}: expected at least 1")
        elif self.projection_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads}: expected a divisor of projection_size="
                f"{self.projection_size}"
            )

    def _validate_words(self) -> None:
        """Check the fields of the word layer: characters, word embeddings, or both."""
        size = self.word_embedding_size
        if not self.character_filters and not size:
            raise ValueError(
                "character_filters is empty: expected a list of [width, count] pairs, or word_embedding_size for a "
                "model that reads words by their id"
            )
        if size and self.vocab_size < 1:
            raise ValueError(
                f"vocab_size={self.vocab_size}: expected at least 1 for a model that reads words by their id"
            )
        if self.character_projection and not self.character_filters:
            raise ValueError("character_projection=True without character_filters: there is nothing to project")
        if self.tie_word_embeddings and size and size != self.projection_size:
            raise ValueError(
                f"tie_word_embeddings=True: expected projection_size={self.projection_size} to equal "
                f"word_embedding_size={size}; make them equal or set tie_word_embeddings=False"
            )
        if self.tie_word_embeddings and (not size or self.softmax_cutoffs is not None):
            lacks = (
                "no table of words"
                if not size
                else f"an adaptive softmax, without a row per word (softmax_cutoffs={self.softmax_cutoffs})"
            )
            raise ValueError(f"tie_word_embeddings=True: the model has {lacks}; set tie_word_embeddings=False")

    def _validate_task(self) -> None:
        """Check the fields of task models."""
        if "output" in self.elmo_at and not self.task_lstm_size:
            raise ValueError(
                f"elmo_at={self.elmo_at} without task_lstm_size: without the task's own biLSTM, there is no output to "
                'concatenate ELMo to; set task_lstm_size or elmo_at=["input"]'
            )
        if "input" not in self.elmo_at and not (self.word_vector_size or self.task_character_size):
            raise ValueError(
                f"elmo_at={self.elmo_at} without word_vector_size: the task's layers have no input; set "
                'word_vector_size or task_character_size, or add "input" to elmo_at'
            )
        for name in ("pre_encoder_layers", "integrator_size"):
            if getattr(self, name) and not self.task_lstm_size:
                raise ValueError(f"{name}={getattr(self, name)} needs the task's biLSTM: set task_lstm_size")
        for name in ("pre_encoder_layers", "classifier_layers"):
            for layer in getattr(self, name):
                if [type(value) for value in layer] != [int, str] or layer[0] < 1 or layer[1] not in ACTIVATION_NAMES:
                    raise ValueError(
                        f"{name} holds {layer}: expected [width, activation], a width of at least 1 and one of "
                        f"{', '.join(ACTIVATION_NAMES)}"
                    )
        if self.task_character_size and not self.task_character_filters:
            raise ValueError("task_character_filters is empty: expected [width, count] pairs, or task_character_size=0")
        if self.integrator_size and self.sentence_pairs:
            raise ValueError(
                f"integrator_size={self.integrator_size} needs sentence_pairs=False: biattention is of one text"
            )
        if not self.pooling:
            raise ValueError('pooling is empty: expected at least one of "mean", "max", "min", "attention"')


@strict
class ElmoTaskEncoderConfig(ElmoConfig):
    r"""Configuration of an [`ElmoTaskEncoder`], with the fields of [`ElmoConfig`].

    Its own model type tells the two kinds of encoders of a translator apart, also in Transformers' own class. It is
    saved as a part of [`ElmoEncoderDecoderConfig`].
    """

    model_type = "elmo_task_encoder"

    @property
    def of_bilm(self) -> ElmoConfig:
        return ElmoConfig.from_dict(self.to_dict())

    @property
    def hidden_size(self) -> int:
        return self.task_layers_size
