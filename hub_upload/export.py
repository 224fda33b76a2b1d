"""Export of a Transformers folder to the files of an original program."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

from elmo_hf import ElmoConfig

from .common.errors import CheckpointError
from .common.output import check_output
from .common.saved_model import Parameter, SavedModel, bilm_parameters, check_parameters, open_parameters, read_config
from .formats import EXPORTS


@dataclass(frozen=True)
class ExportReport:
    """The outcome of `export`.

    Attributes:
        folder: The Transformers folder.
        output: The created folder.
        files: Names of the files in it.
        tensors: Number of written tensors.
        reversible: True if all weights are bit-identical for readers; false only if subtracting the forget bias rounded
            a value.
        notes: Sentences about what the originals cannot represent or read.
    """

    folder: Path
    output: Path
    files: tuple[str, ...]
    tensors: int
    reversible: bool
    notes: tuple[str, ...]


def export(
    folder: str | PathLike[str],
    output: str | PathLike[str],
    *,
    softmax_layout: Literal["sparse", "dense", "unsampled"] | None = None,
    force: bool = False,
) -> ExportReport:
    """Write `options.json` and `weights.hdf5`, with `softmax_weights.hdf5` and `vocab.txt` if the model has them.

    A model with a character dictionary is written as a directory of ELMoForManyLangs instead, and a Transformer as the
    archive of an AllenNLP language model, `model.tar.gz`.

    Args:
        folder: A Transformers folder of any ELMo model; for a task model, its biLM is exported.
        output: The folder to create; it appears when it is complete.
        softmax_layout: Layout of the softmax in the archive of a Transformer: for sparse gradients (the default), for
            dense gradients, or not sampled.
        force: Replace a model folder at `output`.

    Raises:
        CheckpointError: not an ELMo folder, damaged, or a model that the original formats cannot represent.
        OSError: the output cannot be written; nothing is left of it.
    """
    folder, output = Path(folder), Path(output)
    check_output(output, force, [folder], EXPORTS)
    config = read_config(folder)
    notes: list[str] = []
    room = next(export for export in EXPORTS if export.serves(folder, config))
    if softmax_layout is not None and not room.softmax_layouts:
        raise CheckpointError(
            f"{folder}: only the archive of a Transformer has layouts of the softmax: leave --softmax-layout "
            f"{softmax_layout} out"
        )
    room.check_config(folder, config, notes)
    with ExitStack() as stack:
        parameters = bilm_parameters(open_parameters(folder, stack), config, notes)
        check_parameters(config, parameters, folder)
        _note_mixes(config, parameters, notes)
        model = SavedModel(folder, config, parameters, notes)
        written = room.write(model, output, softmax_layout or "sparse")
    if model.lost_bits:
        notes.append(
            f"{model.lost_bits} values of the forget biases change in their last bits when readers add "
            f"{written.forget_bias:g} to them again: this export is not bit-identical to the model"
        )
    elif config.forget_bias != written.forget_bias:
        notes.append("the forget bias was moved out of the biases without losing a bit")
    return ExportReport(folder, output, written.files, written.tensors, not model.lost_bits, tuple(notes))


def _note_mixes(config: ElmoConfig, parameters: Mapping[str, Parameter], notes: list[str]) -> None:
    """Add notes with the values of the mixes, which the files do not contain."""
    if config.scalar_mix == "fixed":
        # Fixed mixes come from the configuration only; mix weights in a file are not loaded.
        notes.append(
            f"the fixed mix is not part of these files: raw weights {config.scalar_mix_parameters} (AllenNLP: "
            "scalar_mix_parameters), gamma 1"
        )
        return
    if config.scalar_mix == "top":
        notes.append("the files do not say that only the top layer is used (bilm-tf: use_top_only=True)")
    for k in range(config.num_representations):
        weights, gamma = (parameters.get(f"scalar_mixes.{k}.{part}") for part in ("weights", "gamma"))
        learned = weights if config.scalar_mix == "learned" else None
        # Nine digits restore a float32 exactly.
        raw = [float(f"{value:.9g}") for value in learned.load().float().tolist()] if learned else []
        scale = float(gamma.load().float()) if gamma else 1.0
        if scale != 1.0 or len(set(raw)) > 1:
            notes.append(
                f"mix {k} is not part of these files: raw weights {raw} (AllenNLP: scalar_mix_parameters), "
                f"gamma {scale:.9g}"
            )
