"""`elmo-hf pretrain`: a pretraining run, or the continuation of one."""

import os
import subprocess
import sys
from typing import Any

from elmo_hf.pretraining.settings import PretrainingSettings


def add_parser(commands: Any) -> None:
    """Add the command; its options are the fields of [`PretrainingSettings`]."""
    parser = commands.add_parser(
        "pretrain",
        dataclass_types=PretrainingSettings,
        help="pretrain a biLM; the same command again continues a run that was interrupted",
        description="Pretrain a biLM. The same command again continues a run that was interrupted. Several processes "
        "on a CPU: --processes N. On GPUs or many machines: torchrun --nproc_per_node N -m elmo_hf.cli pretrain ..., "
        "or accelerate launch --multi_gpu --num_processes N -m elmo_hf.cli pretrain ... (accelerate launch --cpu "
        "starts a single one).",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="processes on this machine, which share its cores as threads and a recipe's rows; --rows counts those of "
        "each. A run is continued by as many.",
    )
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`pretrain`] and print the run's closing line.

    Raises:
        ValueError: `processes` that cannot be, or cannot share the rows.
    """
    processes = options.pop("processes")
    if processes < 1:
        raise ValueError(f"processes={processes}: expected at least 1")
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        return launch(PretrainingSettings(**options), processes, shares_rows=options["rows"] is None)

    from accelerate import PartialState

    from elmo_hf.pretraining import pretrain

    summary = pretrain(PretrainingSettings(**options))
    if PartialState().is_main_process:
        print(summary.line())
    return 0 if summary.signal is None else 128 + summary.signal


def launch(settings: PretrainingSettings, processes: int, *, shares_rows: bool) -> int:
    """Start this command in so many processes, which divide the cores among them.

    Args:
        shares_rows: divide the settings' rows among them too, so that a step is that of one process.

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
    return subprocess.call(command, env={"OMP_NUM_THREADS": str(threads), **os.environ})


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
