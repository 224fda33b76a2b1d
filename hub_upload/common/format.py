"""Interface of a format: the functions that `convert`, `verify` and `export` call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from elmo_hf import ElmoConfig, ElmoTokenizer

from .plain import Plain, PlainTask, Read
from .plan import Plan
from .saved_model import SavedModel, Written
from .source import Place, Source
from .transforms import Array


@dataclass(frozen=True)
class Format:
    """A format for `convert` and `verify`. Functions raise a `CheckpointError` that names file and value.

    Attributes:
        open: (place) -> an open source; `None` if the place has no checkpoint of this format.
        make_plan: (source, notes) -> conversion plan of its tensors.
        make_tokenizer: (source, config, notes) -> the tokenizer.
        plain: (source, read, layer norm epsilon) -> the independent NumPy implementation.
        complete: (config, source, notes): updates the configuration from values of weights, if necessary.
        needs_vocabulary: (source) -> the reason why it needs a vocabulary, empty if it does not.
        chooses_epsilon: True if its files do not contain the epsilon of layer norms.
        model: (source, plan) -> class of a task model; `None` for a language model.
        parameters: (source) -> parameters of a task model outside of its biLM.
        accept: (source, model): final check that needs the model itself.
        plain_task: (source, plain) -> the independent implementation of a task model, given that of its biLM.
        takes_word_vectors: True if a table of words may replace its characters.
    """

    open: Callable[[Place], Source | None]
    make_plan: Callable[[Source, list[str]], Plan]
    make_tokenizer: Callable[[Source, ElmoConfig, list[str]], ElmoTokenizer]
    plain: Callable[[Source, Read, float], Plain]
    complete: Callable[[ElmoConfig, Source, list[str]], None] = lambda config, source, notes: None
    needs_vocabulary: Callable[[Source], str] = lambda source: ""
    chooses_epsilon: bool = False
    model: Callable[[Source, Plan], type[PreTrainedModel] | None] = lambda source, plan: None
    parameters: Callable[[Source], Mapping[str, Array]] = lambda source: {}
    accept: Callable[[Source, PreTrainedModel], None] = lambda source, model: None
    plain_task: Callable[[Source, Plain], PlainTask] | None = None
    takes_word_vectors: bool = False


@dataclass(frozen=True)
class Export:
    """A format for `export`. Functions raise a `CheckpointError` that names folder and value.

    Attributes:
        serves: (folder, config) -> True if a Transformers folder is exported in this format.
        check_config: (folder, config, notes): refuses models that the format cannot represent, and notes restrictions
            of its readers.
        write: (model, output, softmax layout) -> summary of the written files.
        files: Names of all files it may write.
        marker: The file that identifies an exported folder; `is_marker` checks its content.
        softmax_layouts: True if the user may choose the layout of the softmax.
    """

    serves: Callable[[Path, ElmoConfig], bool]
    check_config: Callable[[Path, ElmoConfig, list[str]], None]
    write: Callable[[SavedModel, Path, str], Written]
    files: tuple[str, ...]
    marker: str
    is_marker: Callable[[Path], bool]
    softmax_layouts: bool = False
