"""`elmo-hf pretrain`: start or continue a pretraining run."""

import os
import signal
import subprocess
import sys
from typing import Any

from elmo_hf.pretraining.settings import PretrainingSettings

from .options import add_number
from .output import add_json, tell

# Fields of [`PretrainingSettings`] by subject; fields not listed come last.
COMMON = {
    "text and model": "train_data output_dir vocabulary held_out_data preset initialize_from".split(),
    "training": "epochs max_hours precision".split(),
}
FURTHER = {
    "how text is read": (
        "text_column pos_column pos_separator pos_tag_set split held_out_split held_out_words streaming "
        "pre_tokenization raw_text_pre_tokenization normalize_typography encoding undecodable blank_lines shuffle "
        "shuffle_window"
    ).split(),
    "model": "config_overrides character_dictionary reuse_softmax new_rows softmax_only_steps dropout".split(),
    "batches": (
        "rows unroll_steps sentence_independent reset_states gradient_accumulation_steps max_steps stop_after "
        "checkpoint_every"
    ).split(),
    "loss": "loss softmax_cutoffs num_samples".split(),
    "optimizer": (
        "recipe optimizer learning_rate initial_accumulator weight_decay adam_beta1 adam_beta2 adam_epsilon schedule "
        "warmup_steps max_gradient_norm"
    ).split(),
    "engine and records": "data_workers seed log_every evaluate_every keep_checkpoints trackers run_name".split(),
}


def add_parser(add_command: Any) -> None:
    """Add the command; its options are the fields of [`PretrainingSettings`]."""
    parser = add_command(
        usage="elmo-hf pretrain --train_data TEXT ... --output FOLDER --vocabulary FILE [options]",
        dataclass_types=PretrainingSettings,
        groups=COMMON,
        further_groups=FURTHER,
        renamed={"--output_dir": "--output"},
        description="Pretrain a biLM. Running the same command again continues an interrupted run. Several processes "
        "on a CPU: --processes N. On GPUs or many machines: torchrun --nproc_per_node N -m elmo_hf.cli pretrain ...",
        example="elmo-hf build-vocab train.txt --output vocab.txt\n"
        "  elmo-hf pretrain --train_data train.txt --vocabulary vocab.txt --output run --preset small",
    )
    add_number(
        parser,
        "--processes",
        "processes on this machine. They share its cores and a recipe's rows; --rows is per process. A run must "
        "be continued with the same number.",
        1,
    )
    add_json(parser)
    parser.set_defaults(run=run, after_stop="the same command continues from the newest checkpoint, if there is one")


def run(options: dict[str, Any]) -> int:
    """Call [`pretrain`] and print the run's closing line.

    Raises:
        ValueError: an invalid number of processes, or rows that cannot be divided among them.
    """
    processes, json = options.pop("processes"), options.pop("json")
    if processes < 1:
        raise ValueError(f"processes={processes}: expected at least 1")
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        return launch(PretrainingSettings(**options), processes, shares_rows=options["rows"] is None)

    from accelerate import PartialState

    from elmo_hf.pretraining import pretrain

    summary = pretrain(PretrainingSettings(**options))
    if PartialState().is_main_process:
        record: dict[str, Any] = {"step": summary.step, "words": summary.words, "seconds": summary.seconds}
        record |= {"held_out_perplexity": summary.held_out_perplexity}
        places = {"model": summary.model_folder, "checkpoint": summary.checkpoint}
        record |= {name: None if place is None else str(place) for name, place in places.items()}
        tell({"json": json}, record, summary.line())
    return 0 if summary.signal is None else 128 + summary.signal


def launch(settings: PretrainingSettings, processes: int, *, shares_rows: bool) -> int:
    """Run this command in several processes, which share the cores.

    Args:
        settings: settings of the run.
        processes: number of processes.
        shares_rows: also divide the settings' rows among them, so that a step equals that of one process.

    Returns:
        The exit status.

    Raises:
        ValueError: rows that cannot be divided.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "elmo_hf.cli", *sys.argv[1:]]
    rows = settings.rows
    if shares_rows:
        if rows % processes:
            raise ValueError(
                f"processes={processes}: expected a divisor of the recipe's rows={rows}, or --rows of each"
            )
        rows //= processes
        command += ["--rows", str(rows)]
    threads = max(1, cores() // processes)
    print(f"{processes} processes of {threads} threads and {rows} rows", file=sys.stderr)
    with subprocess.Popen(command, env={"OMP_NUM_THREADS": str(threads), **os.environ}) as launcher:
        received: list[int] = []

        def pass_on(number: int, _: object) -> None:
            received.append(number)
            launcher.terminate()

        # The launcher ends its processes, which write a checkpoint first, and is waited for.
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            status = launcher.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 128 + received[0] if received else status


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
