"""Pretrain a biLM on one's own text.

    elmo-hf build-vocab 'text/*.txt.gz' --output vocab.txt --min_count 3
    python examples/run_pretraining.py --train_data 'text/*.txt.gz' --vocabulary vocab.txt \
        --held_out_data heldout.txt --preset small --epochs 1 --output_dir outputs/small

The same command again continues a run that was interrupted. Options can also stand in a JSON or YAML file, which is
then the only argument. `elmo-hf pretrain` is the same without a script to change.

Several processes, with or without GPUs: put one of these in place of `python`. (`accelerate launch --cpu` starts a
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
    # As a shell reports a signal: whoever started the run sees that it is to be continued.
    return 0 if summary.signal is None else 128 + summary.signal


if __name__ == "__main__":
    run(main)
