"""Pretrain a biLM on your own text.

    elmo-hf build-vocab 'text/*.txt.gz' --output vocab.txt --min_count 3
    python examples/run_pretraining.py --train_data 'text/*.txt.gz' --vocabulary vocab.txt \
        --held_out_data heldout.txt --preset small --epochs 1 --output_dir outputs/small

Running the same command again continues an interrupted run. Options can also be given in a JSON or YAML file, as the
only argument. `elmo-hf pretrain` is the same without a script to modify.

For several processes, with or without GPUs, replace `python` by one of these. (`accelerate launch --cpu` starts a
single process unless MPI is set up.)

    torchrun --nproc_per_node 2
    accelerate launch --multi_gpu --num_processes 2
"""

import logging
import sys
from pathlib import Path

from accelerate import PartialState
from transformers import HfArgumentParser

from elmo_hf.finetuning import run
from elmo_hf.pretraining import PretrainingSettings, pretrain


def parse(arguments: list[str]) -> PretrainingSettings:
    parser = HfArgumentParser(PretrainingSettings)
    if len(arguments) == 1 and Path(arguments[0]).suffix in (".json", ".yaml", ".yml"):
        read = parser.parse_json_file if arguments[0].endswith(".json") else parser.parse_yaml_file
        return read(arguments[0])[0]
    return parser.parse_args_into_dataclasses(arguments)[0]


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = parse(sys.argv[1:])
    summary = pretrain(settings)
    if PartialState().is_main_process:
        print(summary.line())
    # Report a signal as shells do, so that the caller sees that the run has to be continued.
    return 0 if summary.signal is None else 128 + summary.signal


if __name__ == "__main__":
    run(main)
