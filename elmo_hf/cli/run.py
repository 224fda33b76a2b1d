"""`elmo-hf run`: run a Python script with ELMo registered."""

import argparse
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf run SCRIPT [ARGUMENT ...]",
        example="elmo-hf run run_ner.py --model_name_or_path elmo-folder --train_file train.json --output_dir tagger",
        description="Run a Python script as `python SCRIPT ARGS...` would, with ELMo registered with the Auto classes "
        "of Transformers. On several processes: torchrun --nproc_per_node N -m elmo_hf.cli run SCRIPT ARGS...",
    )
    parser.add_argument("script", help="the script's file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own arguments")
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Run the script; its own errors are shown with their traceback.

    Raises:
        FileNotFoundError: no such file.
    """
    script = Path(options["script"])
    if not script.is_file():
        raise FileNotFoundError(f"{script}: no such file; give the path of a Python script")
    # As Python itself does, so that the script can import files next to it.
    sys.path[0] = str(script.resolve().parent)
    sys.argv = [str(script), *options["arguments"]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except Exception:
        traceback.print_exc()
        return 1
    return 0
