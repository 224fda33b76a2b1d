"""Options of fine-tuning: the initial model, the layers that a task adds, and training."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

from transformers import HfArgumentParser, TrainingArguments, set_seed

from elmo_hf.endings import ending, leave_the_pipe
from elmo_hf.fields import option
from elmo_hf.hub.names import resolve
from elmo_hf.inference.loading import default_model
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.word_vectors import read_word_vectors

# Layers between the biLM and the classifier in AllenNLP's published models, by the names of their archives. Here, the
# tag scheme is that of the data, and word vectors are learned unless a file is given.
TASK_PRESETS: dict[str, dict[str, Any]] = {
    "ner-elmo": {
        "word_vector_size": 50,
        "task_character_size": 16,
        "task_character_filters": [[3, 128]],
        "task_lstm_size": 200,
        "task_lstm_layers": 2,
        "task_dropout": 0.5,
        "words_only": True,
        "use_crf": True,
        "crf_constraints": "decoding",
        "crf_start_end_transitions": False,
        "representation_dropout": 0.0,
        "scalar_mix_l2": 0.1,
    },
    "sst-elmo": {
        "word_vector_size": 300,
        "pre_encoder_layers": [[300, "relu"]],
        "task_lstm_size": 300,
        "integrator_size": 300,
        "pooling": ["max", "min", "mean", "attention"],
        "maxout_sizes": [1200, 600],
        "maxout_pieces": 4,
        "maxout_classifier": True,
        "task_dropout": 0.25,
        "words_only": True,
        "representation_dropout": 0.0,
    },
}


@dataclass
class BilmArguments:
    """Options of the initial biLM and its use, common to all scripts and needed by `load_config`."""

    model_name_or_path: str | None = option(
        None,
        "Checkpoint to start from: a folder, a name on the Hub or, as elmo:small, of a published original "
        "(default: the shipped English model).",
    )
    preset: str | None = option(
        None,
        "Start from random weights in a published shape instead: small, medium, ... Or, with a checkpoint, "
        "give the task the layers of AllenNLP's published model: ner-elmo for taggers, sst-elmo for sentences.",
    )
    random_weights: bool = option(
        False, "Use only the checkpoint's shape and tokenizer: the baseline of an untrained biLM."
    )
    config_overrides: str | None = option(
        None, "JSON object of configuration fields to replace, such as '{\"representation_dropout\": 0.3}'."
    )
    freeze_bilm: bool = option(False, "Train only the layer mix and the task's own layers, as in the paper.")
    representation_dropout: float | None = option(
        None, "Dropout on ELMo, the mixed layers (default: the checkpoint's, else 0.5)."
    )
    scalar_mix_l2: float | None = option(
        None,
        "Weight decay of the mix, the paper's lambda: 1 keeps it near the mean of the layers, 0.001 lets "
        "it vary freely.",
    )
    cache_layers: float | None = option(
        None, "With --freeze_bilm: gigabytes of memory for caching the layers of sentences in the first epoch."
    )
    min_count: int = option(
        2,
        "For the task's own word vectors: minimum occurrences of a training word; rarer words share the "
        "vector of <UNK>.",
    )
    new_classifier = False  # an option of models with a classifier
    task_presets: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.preset in TASK_PRESETS and self.preset not in self.task_presets:
            raise ValueError(
                f"--preset {self.preset}: the layers of another task; expected the shape of a biLM"
                + "".join(f", or {name}" for name in self.task_presets)
            )
        if self.model_name_or_path is not None and self.bilm_preset is not None:
            raise ValueError("give either --model_name_or_path (a checkpoint) or --preset (random weights), not both")
        if not self.names_a_bilm and self.needs_a_bilm:
            self.model_name_or_path = default_model()
        if self.random_weights and self.model_name_or_path is None:
            raise ValueError("--random_weights without --model_name_or_path: a preset has no other")
        if self.min_count < 1:
            raise ValueError(f"--min_count {self.min_count}: expected 1 or more")
        self.model_name_or_path = resolve(self.model_name_or_path)

    @property
    def bilm_preset(self) -> str | None:
        """The published biLM shape named by `preset`, if any."""
        return None if self.preset in TASK_PRESETS else self.preset

    @property
    def names_a_bilm(self) -> bool:
        return self.model_name_or_path is not None or self.bilm_preset is not None

    @property
    def needs_a_bilm(self) -> bool:
        return True

    def overrides(self) -> dict[str, Any]:
        """Configuration fields set by the options. `--config_overrides` is applied last and may set any field."""
        return self._given("representation_dropout", "scalar_mix_l2") | overrides_of(self.config_overrides)

    def _given(self, *names: str) -> dict[str, Any]:
        """The given options that are set, by their names, which are also the configuration's."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class ModelArguments(BilmArguments):
    """Options of a task model: its biLM, and the layers between biLM and classifier."""

    # Options with the names of configuration fields.
    named: ClassVar[tuple[str, ...]] = (
        "elmo_at", "task_lstm_size", "task_lstm_layers", "task_dropout", "word_vector_size", "task_character_size"
    )  # fmt: skip
    new_classifier: bool = option(False, "Use only the biLM of a fine-tuned checkpoint, for other labels or layers.")
    without_elmo: bool = option(
        False, "The same task model without a biLM, the paper's baseline; needs words or characters."
    )
    elmo_at: list[str] | None = option(
        None, "Add ELMo at the input of the task's own layers, at their output, or both."
    )
    task_lstm_size: int | None = option(None, "Width of each direction of the task's own biLSTM (default: none).")
    task_lstm_layers: int | None = option(None, "Number of its layers (default: 1).")
    task_dropout: float | None = option(None, "Dropout on the input of each of the task's own layers (default: none).")
    word_vector_size: int | None = option(
        None, "Width of the task's own word vectors (default: that of --word_vectors)."
    )
    word_vectors: str | None = option(None, "GloVe or word2vec text file with initial word vectors.")
    task_character_size: int | None = option(
        None, "Character embedding width of the task's own character CNN (default: none)."
    )
    freeze_word_vectors: bool = option(False, "Do not train the word vectors.")
    lowercase_words: bool = option(False, "Look up words in lower case; characters keep their case.")
    pre_tokenization: Literal["ptb", "whitespace"] | None = option(
        None, "Rule that splits raw text into words (default: the checkpoint's, else ptb, as \"do n't\")."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.without_elmo and self.elmo_at:
            raise ValueError(f"--elmo_at {' '.join(self.elmo_at)}: contradicts --without_elmo; drop one of them")
        if self.without_elmo and (self.freeze_bilm or self.cache_layers is not None):
            name = "freeze_bilm" if self.freeze_bilm else "cache_layers"
            raise ValueError(f"--{name} contradicts --without_elmo: there is no biLM")
        self.lowercase_words = self.lowercase_words or self.preset == "ner-elmo"

    @property
    def needs_a_bilm(self) -> bool:
        return not self.without_elmo

    def overrides(self) -> dict[str, Any]:
        fields = TASK_PRESETS.get(self.preset or "", {}) | self._given(*self.named)
        if self.without_elmo:
            fields["elmo_at"] = []
        if self.word_vectors is not None and self.word_vector_size is None:
            fields["word_vector_size"] = read_word_vectors(self.word_vectors, []).vectors.shape[1]
        if self.freeze_word_vectors:
            fields["train_word_vectors"] = False
        return fields | super().overrides()


@dataclass
class TaggerArguments(ModelArguments):
    """Options of a tagger."""

    task_presets = ("ner-elmo",)
    use_crf: bool = option(False, "Score tag sequences by a CRF, with transitions constrained by the tag scheme.")

    def overrides(self) -> dict[str, Any]:
        return ({"use_crf": True} if self.use_crf else {}) | super().overrides()


@dataclass
class ClassifierArguments(ModelArguments):
    """Options of a sentence classifier."""

    task_presets = ("sst-elmo",)
    named = (*ModelArguments.named, "pooling", "maxout_sizes", "integrator_size")
    pooling: list[str] | None = option(
        None, "Pooling of words into one vector: one or more of mean, max, min, attention."
    )
    maxout_sizes: list[int] | None = option(None, "Widths of max-out layers under the classifier (default: none).")

    integrator_size: int | None = option(
        None,
        "Width of each direction of a second biLSTM, over the attention of a text's words to each other, "
        "as in the paper's biattentive classifier (default: none).",
    )


@dataclass
class TaskTrainingArguments(TrainingArguments):
    """The Trainer's arguments, with defaults that evaluate and save every epoch and keep the best model.

    A script names the default of `metric_for_best_model` by `choose_by`.
    """

    learning_rate: float = option(1e-3, "For the layer mix and the task's own layers.")
    bilm_learning_rate: float | None = option(None, "For the biLM, unless it is frozen (default: --learning_rate).")
    early_stopping_patience: int | None = option(None, "Stop after this many evaluations without a better score.")
    eval_strategy: str = option("epoch", "no, steps or epoch.")
    save_strategy: str = option("epoch", "no, steps, epoch or best.")
    save_total_limit: int | None = option(2, "Checkpoints to keep, including the best.")
    load_best_model_at_end: bool = option(True, "End with the best model, not the last.")
    metric_for_best_model: str | None = option(None, "Metric that chooses the best model (default: by the task).")
    logging_strategy: str = option("epoch", "no, steps or epoch.")
    report_to: str | None = option("none", "none, tensorboard, wandb, ...")
    license: str | None = option(None, "License for the model card: a Hub identifier, such as apache-2.0.")
    language: list[str] | None = option(None, "Languages for the model card: codes such as en or de.")

    def __post_init__(self) -> None:
        self._has_metric = self.metric_for_best_model is not None
        if self.push_to_hub:
            if missing := [f"--{name}" for name in ("license", "language") if not getattr(self, name)]:
                raise ValueError(f"--push_to_hub without {' and '.join(missing)}: the model's card names them")
            self.hub_strategy = "end"  # checkpoints are not published
        if not self.do_train:  # no epochs to evaluate, and no best model
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()

    def choose_by(self, metric: str, greater_is_better: bool = True) -> None:
        """Set the metric that chooses the best model, unless the command line names one."""
        if not self._has_metric:
            self.metric_for_best_model, self.greater_is_better = metric, greater_is_better


def overrides_of(text: str | None) -> dict[str, Any]:
    """Parse the fields in `--config_overrides`."""
    text = text or "{}"
    try:
        overrides = json.loads(text)
    except (ValueError, RecursionError):
        overrides = None
    if not isinstance(overrides, dict):
        raise ValueError(f"--config_overrides {text!r:.200}: expected a JSON object, such as " + '{"cell_size": 512}')
    known = ElmoConfig()
    for name in overrides:
        derived = getattr(ElmoConfig, name, None)
        if not hasattr(known, name) or (isinstance(derived, property) and derived.fset is None):
            raise ValueError(f"--config_overrides: ElmoConfig has no field {name!r}")
    return overrides


def parse(argv: Sequence[str] | None, *kinds: type[Any]) -> tuple[Any, ...]:
    """Parse options into one instance of each dataclass, the last being the Trainer's; set up logging and the seed.

    Args:
        argv: the command line (default: the program's own); a single `.json` file of options works too.
        kinds: the dataclasses.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(kinds)  # type: ignore[arg-type]
    if len(argv) == 1 and argv[0].endswith(".json"):
        parsed = parser.parse_json_file(argv[0])
    else:
        parsed = parser.parse_args_into_dataclasses(list(argv))
    args = parsed[-1]
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    logging.basicConfig(format="%(message)s", level=logging.INFO if args.should_log else logging.WARNING)
    set_seed(args.seed)
    if args.device.type == "cpu":
        args.dataloader_pin_memory = False  # otherwise torch warns every epoch
    return parsed


def run(main: Callable[[], Any]) -> NoReturn:
    """Call a script's `main` and exit with the status it returns, if that is a number.

    Errors that the user can fix give one line on stderr and status 1; Ctrl-C and a closed pipe are quiet (`ending`).
    """
    try:
        status = main()
        sys.stdout.flush()
    except BaseException as error:
        known = ending(error)
        if known is None:
            raise
        status, line = known
        if isinstance(error, BrokenPipeError):
            leave_the_pipe()
        elif status == 1:
            sys.exit(f"error: {line}")
        else:
            print(line, file=sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)
