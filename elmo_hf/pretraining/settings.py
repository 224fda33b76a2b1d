"""Every option of a pretraining run, in one flat and validated set: the one source of the command line's options.

What is learned, and how, comes from a recipe (`RECIPES`) where an option is left out: bilm-tf's
(`bin/train_elmo.py`), or one for a small corpus. Every other default is bilm-tf's way, but for `reset_states`.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from elmo_hf.checks import at_least_one
from elmo_hf.fields import option

if TYPE_CHECKING:
    from elmo_hf.model.configuration_elmo import ElmoConfig


# Fields that a resumed run may change, since they decide only where and how often something is written.
FREE_ON_RESUME = frozenset(
    (
        "output_dir held_out_data held_out_split held_out_words evaluate_every checkpoint_every keep_checkpoints "
        "log_every trackers run_name license language stop_after data_workers"
    ).split()
)

# Options set by each recipe. The one for small corpora was found on books of 0.6 to 5 million words
# (docs/pretraining.md).
RECIPES: dict[str, dict[str, Any]] = {
    "bilm-tf": {
        "rows": 128,
        "unroll_steps": 20,
        "num_samples": 8192,
        "dropout": 0.1,
        "optimizer": "adagrad",
        "learning_rate": 0.2,
        "schedule": "constant",
        "warmup_steps": 0,
        "max_gradient_norm": 10.0,
    },
    "small-corpus": {
        "rows": 64,
        "unroll_steps": 40,
        "num_samples": 2048,
        "dropout": 0.0,
        "optimizer": "adamw",
        "learning_rate": 4e-3,
        "schedule": "cosine",
        "warmup_steps": 200,
        "max_gradient_norm": 5.0,
    },
}
DEFAULT_PRESET = "mini"
# Default recipes of presets, if not bilm-tf's.
RECIPE_OF_PRESET = {"mini": "small-corpus"}
DEFAULT_LEARNING_RATE = {"adagrad": 0.2, "adamw": 1e-3}


def by_recipe(name: str, help: str) -> Any:
    """A dataclass field with a default from the recipe; its help lists the value of each recipe."""
    values = "; ".join(f"{recipe}: {values[name]}" for recipe, values in RECIPES.items())
    return option(None, f"{help} (By recipe; {values}.)")


@dataclass(kw_only=True)
class PretrainingSettings:
    """Options of a pretraining run; see each field's help.

    Raises:
        ValueError: an invalid value, or two that contradict each other; the message names the fields.
    """

    # Text
    train_data: list[str] = field(
        metadata={
            "help": "Training text: files or globs (plain text, .gz, .xz, JSON, Parquet), or the name of a data set."
        }
    )
    output_dir: str = field(metadata={"help": "Folder of the run: checkpoints, logs, curves and the final model."})
    vocabulary: str | None = option(
        None,
        "Vocabulary file, one word per line by descending frequency, from `elmo-hf build-vocab`. Optional with "
        "initialize_from (default: the checkpoint's vocabulary).",
    )
    held_out_data: list[str] | None = option(None, "Held-out text for the perplexity, in the format of train_data.")
    held_out_words: int | None = option(
        None, "Words of held_out_data for evaluations during the run (default: all); the last one uses all."
    )
    text_column: str = option("text", "Column of JSON, Parquet or a data set that holds the sentences.")
    pos_column: str | None = option(
        None,
        "Column of the words' POS tags; text_column then has lists of words. A new model reads both "
        "(num_pos_tags); a model without POS tags reads only the words.",
    )
    pos_separator: str | None = option(
        None, "Instead of pos_column: separator between each word and its POS tag in the text: _ in the_DET."
    )
    pos_tag_set: str | None = option(
        None, "File of a new model's POS tags, one per line (default: collected by reading train_data)."
    )
    split: str = option("train", "Split of train_data when it names a data set.")
    held_out_split: str = option("validation", "Split of held_out_data when it names a data set.")
    streaming: bool = option(
        True, "Stream a data set, which may be larger than the disk; otherwise it is downloaded first."
    )
    pre_tokenization: Literal["whitespace", "ptb"] = option(
        "whitespace", "Splitting of lines into words: at whitespace, or by rules for raw text (like Penn Treebank)."
    )
    raw_text_pre_tokenization: Literal["ptb", "whitespace"] | None = option(
        None,
        "Splitting of raw text into words by the model's tokenizer, for instance in pipelines (default: ptb, or that "
        "of initialize_from). pre_tokenization, the rule for lines of files, is recorded too.",
    )
    normalize_typography: bool = option(
        True,
        "Let the tokenizer replace typographic quotes, apostrophes and dashes of raw text by the vocabulary's own "
        "spelling, if the vocabulary lacks them.",
    )
    encoding: str = option("utf-8", "Encoding of text and JSON files.")
    undecodable: Literal["refuse", "skip", "replace"] = option(
        "refuse",
        "Lines that are not valid in the encoding: stop with an error, leave them out, or replace bytes by U+FFFD.",
    )
    blank_lines: Literal["skip", "keep"] = option("skip", "Blank lines: skipped, or empty sentences as in bilm-tf.")
    shuffle: bool = option(True, "Shuffle shards and sentences in each epoch and direction.")
    shuffle_window: int = option(2**16, "Sentences shuffled together in memory, after the shards.")

    # Model
    preset: str = option(
        None,
        "Shape of a new model: mini (3 million parameters, for a CPU; the default), small, medium, original, 5.5B, "
        "transformer or transformer-words.",
    )
    recipe: Literal["small-corpus", "bilm-tf"] = option(
        None,
        "Defaults of the options below: small-corpus (AdamW; the default of mini) or bilm-tf (those of the original "
        "program; the default of all other presets and of initialize_from).",
    )
    config_overrides: str | None = option(
        None,
        "Fields of the model's configuration that replace the preset's: JSON such as '{\"cell_size\": 512}', or "
        'the path of a JSON file. For words read by id instead of characters: \'{"character_filters": [], '
        '"word_embedding_size": 512}\'; with "tie_word_embeddings": true the softmax shares the embeddings, which are '
        "then as wide as projection_size. Without the empty list of filters, words are read by id and characters.",
    )
    initialize_from: str | None = option(
        None, "Start from the weights of this checkpoint folder instead of random ones."
    )
    character_dictionary: str | None = option(
        None,
        "File of characters for a new model of Unicode code points, from `elmo-hf build-characters`; by default the "
        "model reads bytes.",
    )
    reuse_softmax: bool = option(True, "With initialize_from: keep the softmax rows of words in both vocabularies.")
    new_rows: Literal["mean", "random"] = option(
        "mean", "With initialize_from: initial softmax rows of new words: the mean of the known rows, or random."
    )
    softmax_only_steps: int = option(
        0, "With initialize_from: first train only the softmax for this many steps, with a frozen biLM."
    )
    dropout: float = by_recipe(
        "dropout",
        "Dropout of LSTM inputs and of the top layer; for a Transformer, every dropout in it and of the top layer.",
    )

    # Batches
    rows: int = by_recipe("rows", "Rows of a batch in each process; every row is a running stream of sentences.")
    unroll_steps: int = by_recipe(
        "unroll_steps", "Words of a row in one batch: the length of backpropagation through time."
    )
    sentence_independent: bool = option(
        False,
        "Rows of one sentence, without carried state, in batches of similar length, instead of running streams. "
        "Required by a Transformer; sentences longer than unroll_steps are split.",
    )
    reset_states: bool = option(
        True,
        "Reset the carried state of a row whose batch begins with a sentence (about one in fifteen), so that the model "
        "learns to start from zeros, as in later use. bilm-tf never resets (no_reset_states).",
    )
    gradient_accumulation_steps: int = option(1, "Batches per optimizer step.")
    epochs: int = option(10, "Passes over train_data.")
    max_steps: int | None = option(None, "Stop after this many steps, regardless of epochs.")
    max_hours: float | None = option(
        None,
        "Stop after this time, regardless of epochs, with the schedule ending then. Evaluations during the run and "
        "checkpoints count; the last evaluation does not. The result then depends on the machine's speed.",
    )
    stop_after: int | None = option(
        None, "Write a checkpoint and exit after this step; the run stays unfinished and can be resumed."
    )

    # Loss
    loss: Literal["sampled", "full", "adaptive"] = option("sampled", "Kind of softmax.")
    softmax_cutoffs: list[int] | None = option(
        None,
        "Adaptive softmax: first words of the clusters, as ranks by descending frequency (default: about "
        "1, 5 and 25 percent of the vocabulary).",
    )
    num_samples: int = by_recipe(
        "num_samples",
        "Words sampled by the sampled softmax, shared within a batch and direction. The default is limited to half the "
        "vocabulary.",
    )

    # Optimizer
    optimizer: Literal["adagrad", "adamw"] = by_recipe("optimizer", "bilm-tf's Adagrad, or AdamW.")
    learning_rate: float = by_recipe(
        "learning_rate", "Learning rate; for an optimizer other than the recipe's, 0.2 for Adagrad, 0.001 for AdamW."
    )
    initial_accumulator: float = option(1.0, "Adagrad: initial value of the sum of squared gradients.")
    weight_decay: float = option(0.01, "AdamW: decoupled weight decay, of matrices only.")
    adam_beta1: float = option(0.9, "AdamW: decay of the first moment.")
    adam_beta2: float = option(0.999, "AdamW: decay of the second moment.")
    adam_epsilon: float = option(1e-8, "AdamW: epsilon.")
    schedule: Literal["constant", "linear", "cosine", "constant-then-linear", "noam"] = by_recipe(
        "schedule",
        "Learning rate after the warm-up: linear and cosine fall to zero at the end of the run, constant-then-linear "
        "over its last fifth; noam falls with the root of the steps. The end is max_hours, max_steps, or the end of "
        "the epochs, for which train_data is counted first.",
    )
    warmup_steps: int = by_recipe(
        "warmup_steps",
        "Steps over which the learning rate rises from zero. The default is limited to a tenth of the run, if its "
        "length is known.",
    )
    max_gradient_norm: float = by_recipe("max_gradient_norm", "Bound of the global gradient norm; 0 for none.")

    # Engine
    precision: Literal["no", "bf16"] = option(
        "no",
        "bf16: autocast of matmuls; weights and state stay fp32. The same as no on a CPU without instructions for "
        "bfloat16.",
    )
    data_workers: int | None = option(
        None,
        "Worker processes of each training process that prepare batches ahead of time; the batches are the same "
        "(default: 4 for a GPU, none on a CPU).",
    )
    seed: int = option(0, "Seed of initial weights, order of the text, samples and dropout.")

    # Written along the way
    log_every: int = option(100, "Steps between two records of the loss.")
    evaluate_every: int | None = option(None, "Steps between two held-out evaluations (default: only at the end).")
    checkpoint_every: int = option(1000, "Steps between two checkpoints.")
    keep_checkpoints: int = option(2, "Newest checkpoints to keep, besides that of the best held-out perplexity.")
    trackers: list[str] | None = option(None, "Accelerate trackers, for instance tensorboard.")
    run_name: str = option("elmo", "Name of the run for the trackers and the model card.")
    license: str | None = option(None, "License of the model for its card: a Hub identifier such as apache-2.0.")
    language: list[str] | None = option(None, "Languages of the model for its card: codes such as en or de.")

    def __post_init__(self) -> None:
        self._left_out = self._fill_in()
        self._check_ranges()
        self._check_agreement()

    def _fill_in(self) -> frozenset[str]:
        """Fill in the options left out; return the names of those that take the values of a continued run."""
        left_out = {name for name in ("preset", "recipe", *RECIPES["bilm-tf"]) if getattr(self, name) is None}
        if "preset" in left_out:
            self.preset = DEFAULT_PRESET
        if "recipe" in left_out:
            by_shape = RECIPE_OF_PRESET.get(self.preset, "bilm-tf") if self.initialize_from is None else "bilm-tf"
            self.recipe = by_shape  # type: ignore[assignment]  # one of the names
        recipe = RECIPES.get(self.recipe, RECIPES["bilm-tf"])  # an unknown name is refused below
        for name in left_out & recipe.keys() - {"learning_rate"}:
            setattr(self, name, recipe[name])
        if "learning_rate" in left_out:
            own = self.optimizer == recipe["optimizer"]
            self.learning_rate = recipe["learning_rate"] if own else DEFAULT_LEARNING_RATE.get(self.optimizer, 1e-3)
        # A given recipe stands for its values, except two that depend on the vocabulary and the length of the run.
        return frozenset(left_out if "recipe" in left_out else left_out & {"preset", "num_samples", "warmup_steps"})

    def _check_ranges(self) -> None:
        counts = (
            "rows unroll_steps gradient_accumulation_steps epochs num_samples shuffle_window log_every "
            "checkpoint_every keep_checkpoints max_steps stop_after evaluate_every held_out_words"
        ).split()
        at_least_one(**{name: getattr(self, name) for name in counts})
        for name in "softmax_only_steps warmup_steps weight_decay max_gradient_norm seed data_workers".split():
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        for name in "learning_rate initial_accumulator adam_epsilon max_hours".split():
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")
        for name in "dropout adam_beta1 adam_beta2".split():
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number in [0, 1)")
        # Type hints, since the command line's parser changes the types of the fields.
        for name, hint in get_type_hints(PretrainingSettings).items():
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
            if choices and getattr(self, name) not in (*choices, *((None,) if NoneType in kinds else ())):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, choices))}")
        from elmo_hf.model.configuration_elmo import PRESETS

        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r}: expected one of {', '.join(map(repr, PRESETS))}")

    def _check_agreement(self) -> None:
        for name in ("train_data", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: expected {'files' if name == 'train_data' else 'a folder'}")
        if self.vocabulary is None and self.initialize_from is None:
            raise ValueError("vocabulary is missing: make one with `elmo-hf build-vocab`, or name initialize_from")
        if self.initialize_from is None:
            if self.softmax_only_steps:
                raise ValueError(
                    f"softmax_only_steps={self.softmax_only_steps} needs initialize_from: a biLM with random weights "
                    "has nothing a softmax could learn from"
                )
        elif self.config_overrides is not None:
            raise ValueError(
                "config_overrides and initialize_from contradict each other: a checkpoint has its own shape"
            )
        if self.pos_column is not None and self.pos_separator is not None:
            raise ValueError(
                f"pos_column={self.pos_column!r} and pos_separator={self.pos_separator!r} contradict each other: POS "
                "tags are in a column of their own or after each word"
            )
        if self.is_tagged and self.pre_tokenization != "whitespace":
            raise ValueError(
                f"pre_tokenization={self.pre_tokenization!r} for text with POS tags, which is split into words: "
                "leave pre_tokenization out"
            )
        if self.pos_tag_set is not None and not self.is_tagged:
            raise ValueError(f"pos_tag_set={self.pos_tag_set!r} needs text with tags: name pos_column or pos_separator")
        if self.initialize_from is not None:
            for name in ("pos_tag_set", "character_dictionary"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} and initialize_from contradict each other: a checkpoint has its own")
        if self.softmax_cutoffs is not None and self.loss != "adaptive":
            raise ValueError(f"softmax_cutoffs={self.softmax_cutoffs} needs loss='adaptive', not {self.loss!r}")
        if self.evaluate_every is not None and not self.held_out_data:
            raise ValueError(f"evaluate_every={self.evaluate_every} needs held_out_data")
        if self.schedule == "noam" and not self.warmup_steps:
            raise ValueError("schedule='noam' needs warmup_steps of 1 or more: the rate peaks there")
        fixed = "warmup_steps" not in self._left_out
        if self.max_steps is not None and self.warmup_steps >= self.max_steps and fixed:
            raise ValueError(f"warmup_steps={self.warmup_steps}: expected fewer than max_steps={self.max_steps}")

    @property
    def schedule_ends(self) -> bool:
        """True if the schedule depends on the length of the run."""
        return self.schedule not in ("constant", "noam")

    def fitted(self, words: int, steps: int | None) -> "PretrainingSettings":
        """The same settings; `num_samples` and `warmup_steps` are limited if they were left out.

        Args:
            words: number of words with a probability.
            steps: steps of the run; `None` if unknown.

        Raises:
            ValueError: `num_samples` was given and is more than the words.
        """
        changed: dict[str, Any] = {}
        if "num_samples" in self._left_out:
            changed["num_samples"] = max(1, min(self.num_samples, words // 2))
        elif self.loss == "sampled" and self.num_samples > words:
            raise ValueError(
                f"num_samples={self.num_samples}: expected 1 to {words}, the words of the vocabulary; lower it, leave "
                "it out, or use --loss full"
            )
        if "warmup_steps" in self._left_out and self.schedule_ends and steps is not None:
            changed["warmup_steps"] = min(self.warmup_steps, steps // 10)
        return dataclasses.replace(self, **changed)

    @property
    def is_tagged(self) -> bool:
        """True if the text has POS tags."""
        return self.pos_column is not None or self.pos_separator is not None

    def model_config(self, **fields: Any) -> "ElmoConfig":
        """Configuration of a new model: the preset, then `config_overrides`, then `fields`.

        Raises:
            ValueError: `config_overrides` is not a JSON object, or [`ElmoConfig`] refuses its fields.
        """
        from huggingface_hub.errors import StrictDataclassError

        from elmo_hf.corpus.records import parse_json, read_object
        from elmo_hf.model.configuration_elmo import ElmoConfig

        overrides: dict[str, Any] = {}
        if self.config_overrides is not None:
            text = self.config_overrides
            if not text.lstrip().startswith("{"):
                path = Path(text)
                if not path.is_file():
                    raise ValueError(
                        f'config_overrides={text!r}: expected a JSON object such as {{"cell_size": 512}}, or the '
                        "path of a JSON file"
                    )
                overrides = read_object(path, "a JSON object of fields of ElmoConfig")
            else:
                place = f"config_overrides={self.config_overrides!r:.200}"
                overrides = parse_json(text, lambda: place, 'a JSON object such as {"cell_size": 512}')
            known = {spec.name for spec in dataclasses.fields(ElmoConfig)}
            for name in overrides:
                if name not in known:
                    raise ValueError(f"config_overrides names {name!r}, which is not a field of ElmoConfig")
        # Derived sizes are computed again unless they are given.
        if self.softmax_cutoffs is not None:
            fields["softmax_cutoffs"] = self.softmax_cutoffs
        elif self.loss == "adaptive" and "vocab_size" in fields and overrides.get("softmax_cutoffs") is None:
            fields["softmax_cutoffs"] = default_cutoffs(fields["vocab_size"])
        try:
            config = ElmoConfig.from_preset(self.preset, **{**overrides, **fields})
            config.set_dropout(self.dropout)
            return config
        except StrictDataclassError as error:
            raise ValueError(f"no such model: {error.__cause__ or error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self)

    def continuing(self, stored: dict[str, Any], checkpoint: Path) -> "PretrainingSettings":
        """Settings to continue a run: options left out have the values of that run.

        Args:
            stored: `to_dict()` of the run that wrote `checkpoint`, possibly by a version with fewer options.

        Raises:
            ValueError: settings that contradict the run; the message names each, its two values and the remedy.
        """
        # Before recipes existed, all defaults were bilm-tf's.
        known = {"recipe": "bilm-tf", **stored}
        settings = dataclasses.replace(self, **{name: known[name] for name in self._left_out if name in known})
        settings.check_resumes(stored, checkpoint)
        return settings

    def check_resumes(self, stored: dict[str, Any], checkpoint: Path) -> None:
        """Raise if these settings contradict the run to be continued.

        Args:
            stored: `to_dict()` of the run that wrote `checkpoint`.

        Raises:
            ValueError: settings differ; the message names each, its two values and the remedy.
        """
        # A run may be prolonged unless its schedule depends on its length.
        free = FREE_ON_RESUME | (set() if self.schedule_ends else {"epochs", "max_steps", "max_hours"})
        differing = [
            f"{name}={value!r} (was {stored[name]!r})"
            for name, value in self.to_dict().items()
            if name not in free and name in stored and stored[name] != value
        ]
        if differing:
            raise ValueError(
                f"{checkpoint} was written by a run with other settings: {'; '.join(differing)}. Give the old values "
                "to continue it, or another output_dir to begin a new run (initialize_from can start from its weights)"
            )


def default_cutoffs(vocab_size: int) -> list[int]:
    """Cutoffs for a vocabulary of this size: about 1, 5 and 25 percent of it, the proportions of Grave et al.

    Raises:
        ValueError: a vocabulary too small for clusters.
    """
    cutoffs = sorted({max(1, vocab_size * share // 100) for share in (1, 5, 25)})
    if vocab_size < 100:
        raise ValueError(
            f"vocab_size={vocab_size}: an adaptive softmax pays from tens of thousands of words on and is refused "
            "below 100; use the full softmax"
        )
    return cutoffs
