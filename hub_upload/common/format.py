"""The protocol of a room: the functions through which the verbs use a format."""

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
    """A format as `convert` and `verify` use it. Each function raises `CheckpointError` that names file and value.

    Attributes:
        open: (place) -> an open source, or `None` if the place holds no checkpoint of this format.
        make_plan: (source, notes) -> what its tensors become.
        make_tokenizer: (source, config, notes) -> the tokenizer.
        plain: (source, read, layer norm epsilon) -> the independent NumPy implementation.
        complete: (config, source, notes): changes the configuration by values of weights, if the format needs that.
        needs_vocabulary: (source) -> why it cannot do without a vocabulary, empty if it can.
        chooses_epsilon: Whether its files lack the epsilon of the model's layer norms.
        model: (source, plan) -> the class of a task model, or `None` for the language model alone.
        parameters: (source) -> the parameters of a task model outside of its biLM.
        accept: (source, model): refuses what only the model itself can tell.
        plain_task: (source, plain) -> the independent implementation of a task model over that of its biLM.
        takes_word_vectors: Whether a table of words may take the place of its characters.
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
    """A format as `export` uses it. Each function raises `CheckpointError` that names folder and value.

    Attributes:
        serves: (folder, config) -> whether a Transformers folder is written in this format.
        check_config: (folder, config, notes): refuses what the format cannot hold, notes what its readers cannot read.
        write: (model, output, softmax layout) -> what was written.
        files: All names of files that it writes.
        marker: The one of them that tells such a folder, and `is_marker` by its content.
        softmax_layouts: Whether the user may choose how the softmax is stored.
    """

    serves: Callable[[Path, ElmoConfig], bool]
    check_config: Callable[[Path, ElmoConfig, list[str]], None]
    write: Callable[[SavedModel, Path, str], Written]
    files: tuple[str, ...]
    marker: str
    is_marker: Callable[[Path], bool]
    softmax_layouts: bool = False
