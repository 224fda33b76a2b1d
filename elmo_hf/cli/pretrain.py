"""`elmo-hf pretrain`: a pretraining run, or the continuation of one."""

from typing import Any

from elmo_hf.pretraining.settings import PretrainingSettings


def add_parser(commands: Any) -> None:
    """Add the command; its options are the fields of [`PretrainingSettings`]."""
    parser = commands.add_parser(
        "pretrain",
        dataclass_types=PretrainingSettings,
        help="pretrain a biLM; the same command again continues a run that was interrupted",
        description="Pretrain a biLM. The same command again continues a run that was interrupted. Several processes, "
        "with or without GPUs: torchrun --nproc_per_node N -m elmo_hf.cli pretrain ..., or accelerate launch "
        "--multi_gpu --num_processes N -m elmo_hf.cli pretrain ... (accelerate launch --cpu starts a single one).",
    )
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`pretrain`] and print the run's closing line."""
    from accelerate import PartialState

    from elmo_hf.pretraining import pretrain

    summary = pretrain(PretrainingSettings(**options))
    if PartialState().is_main_process:
        print(summary.line())
    return 0 if summary.signal is None else 128 + summary.signal
