#!/usr/bin/env python3
"""Time AllenNLP's `ElmoLstm` of the original size on random words; run it in an environment with AllenNLP.

    python benchmarks/allennlp_lstm.py --rows 32 128 512 --words 25 --device cuda --dtype float32

Prints one JSON object: median seconds per call for each number of rows. `gpu.py --allennlp PYTHON` runs it.
"""

import argparse
import json
import statistics
import sys
import time
import types
import warnings
from importlib.machinery import ModuleSpec

warnings.filterwarnings("ignore")
for name in ("torchvision", "torchvision.transforms", "torchvision.ops"):  # imported by AllenNLP, not used here
    module = types.ModuleType(name)
    module.__spec__, module.__path__ = ModuleSpec(name, None), []
    sys.modules[name] = module
import torch  # noqa: E402
import transformers  # noqa: E402

if not hasattr(transformers, "AdamW"):  # removed since AllenNLP's last release
    transformers.AdamW = torch.optim.AdamW
from allennlp.modules.elmo_lstm import ElmoLstm  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--words", type=int, required=True)
    parser.add_argument("--projection", type=int, default=512)
    parser.add_argument("--cell", type=int, default=4096)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    seconds = {}
    for rows in options.rows:
        lstm = ElmoLstm(
            options.projection, options.projection, options.cell, 2,
            memory_cell_clip_value=3.0, state_projection_clip_value=3.0,
        ).to(options.device, dtype).eval()  # fmt: skip
        inputs = torch.randn(rows, options.words, options.projection, device=options.device, dtype=dtype)
        mask = torch.ones(rows, options.words, dtype=torch.bool, device=options.device)
        times = []
        with torch.no_grad():
            for _ in range(options.rounds + 2):
                began = time.perf_counter()
                lstm(inputs, mask)
                if options.device.startswith("cuda"):
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
        seconds[rows] = statistics.median(times[2:])
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
