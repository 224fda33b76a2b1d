#!/usr/bin/env python3
"""Measure time and memory of loading a model from safetensors, compared with AllenNLP loading the same HDF5 weights.

    python benchmarks/loading.py --model FOLDER --allennlp_model FOLDER --allennlp_python PYTHON

`--model` is a converted model, `--allennlp_model` the folder with options.json and weights.hdf5 it was converted from,
and `--allennlp_python` the interpreter of an environment with AllenNLP. Without the last two, only our loading is
measured.

Every measurement runs in its own process, alternating between ours and AllenNLP's, with files in the system's cache.
Import time is reported separately. Memory-mapped weights are read on first use, so the table also has the time until
the first sentence is embedded. Memory is counted beyond imports: the peak while loading, and the private memory
afterwards. Pages of a mapped file, which processes share and the system may drop, count only for the peak.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SENTENCE = ["<S>", "A", "short", "sentence", ".", "</S>"]


def memory() -> dict[str, float]:
    """Memory of this process in megabytes: current, peak, and current private memory."""
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssAnon")}


def measure_ours(folder: str) -> dict[str, float]:
    """Measure our loading in this process, which must be fresh."""
    began = time.perf_counter()
    import torch

    from elmo_hf import ElmoModel, ElmoTokenizer

    # Transformers imports a class's dependencies on first use.
    ElmoModel.from_pretrained  # noqa: B018
    imported = time.perf_counter()
    before = memory()
    start = time.perf_counter()
    model = ElmoModel.from_pretrained(folder).eval()
    loaded, after = time.perf_counter(), memory()
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    encoding = tokenizer([SENTENCE[1:-1]], is_split_into_words=True, return_tensors="pt")
    ready = time.perf_counter()
    with torch.no_grad():
        value = model(**encoding).last_hidden_state[0, 1, 0]
    return report(began, imported, start, loaded, time.perf_counter() - ready, before, after, float(value))


def measure_allennlp(folder: str) -> dict[str, float]:
    """Measure AllenNLP's loading in its own environment, as `measure_ours`."""
    import types
    import warnings
    from importlib.machinery import ModuleSpec

    warnings.filterwarnings("ignore")
    began = time.perf_counter()
    for name in ("torchvision", "torchvision.transforms", "torchvision.ops"):  # imported by AllenNLP, not used by ELMo
        module = types.ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    import torch
    import transformers

    transformers.AdamW = torch.optim.AdamW  # removed from Transformers since AllenNLP's last release
    from allennlp.modules.elmo import Elmo, batch_to_ids

    imported = time.perf_counter()
    before = memory()
    start = time.perf_counter()
    model = Elmo(f"{folder}/options.json", f"{folder}/weights.hdf5", 1, dropout=0).eval()
    loaded, after = time.perf_counter(), memory()
    character_ids = batch_to_ids([SENTENCE[1:-1]])
    ready = time.perf_counter()
    with torch.no_grad():
        value = model(character_ids)["elmo_representations"][0][0, 0, 0]
    return report(began, imported, start, loaded, time.perf_counter() - ready, before, after, float(value))


def report(
    began: float,
    imported: float,
    start: float,
    loaded: float,
    first: float,
    before: dict[str, float],
    after: dict[str, float],
    value: float,
) -> dict[str, float]:
    """Seconds and megabytes of one process."""
    return {
        "import": imported - began,
        "load": loaded - start,
        "load_and_first_sentence": loaded - start + first,
        # The peak of the whole process; imports need less memory than loading.
        "peak_megabytes": after["VmHWM"] - before["VmRSS"],
        "own_megabytes": after["RssAnon"] - before["RssAnon"],
        "value": value,
    }


def run(python: str, kind: str, folder: str, threads: int) -> dict[str, float]:
    """Run one measurement in a fresh process."""
    command = [python, __file__, "--worker", kind, "--model", folder]
    # Set by the environment, because `torch.set_num_threads` would import torch before timing starts.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the converted model and its tokenizer")
    parser.add_argument("--allennlp_model", help="folder with options.json and weights.hdf5")
    parser.add_argument("--allennlp_python", help="interpreter of an environment with AllenNLP")
    parser.add_argument("--rounds", type=int, default=7, help="measured processes of each; medians are compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--worker", choices=("ours", "allennlp"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        measure = measure_ours if options.worker == "ours" else measure_allennlp
        print(json.dumps(measure(options.model)))
        return
    if bool(options.allennlp_model) != bool(options.allennlp_python):
        raise SystemExit("--allennlp_model and --allennlp_python belong together: give both or none")

    workers = {"ours": (sys.executable, options.model)}
    if options.allennlp_model:
        workers["allennlp"] = (options.allennlp_python, options.allennlp_model)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in workers}
    for number in range(options.rounds + 1):
        for kind, (python, folder) in workers.items():
            measured = run(python, kind, folder, options.threads)
            if number:  # the first round reads the files into the system's cache
                found[kind].append(measured)
    values = {kind: rounds[0]["value"] for kind, rounds in found.items()}
    if max(values.values()) - min(values.values()) > 1e-4:
        raise SystemExit(f"the two models differ: the first number of the first sentence is {values}")

    names = [name for name in found["ours"][0] if name != "value"]
    medians = {
        kind: {name: statistics.median(r[name] for r in rounds) for name in names} for kind, rounds in found.items()
    }
    size = sum(file.stat().st_size for file in Path(options.model).glob("*.safetensors")) / 2**20
    print(f"{size:.0f} MB of weights, medians of {options.rounds} processes, {options.threads} threads")
    print(f"{'':26}{'ours':>10}" + (f"{'AllenNLP':>10}{'ratio':>8}" if "allennlp" in medians else ""))
    for name in names:
        unit = "MB" if name.endswith("megabytes") else "s"
        line = (
            f"{name.replace('_megabytes', ' memory').replace('_', ' ') + ', ' + unit:26}{medians['ours'][name]:>10.2f}"
        )
        if "allennlp" in medians:
            theirs = medians["allennlp"][name]
            line += f"{theirs:>10.2f}{theirs / max(medians['ours'][name], 1e-9):>8.1f}"
        print(line)
    if options.output is not None:
        result = {"weights_megabytes": size, "rounds": options.rounds, "threads": options.threads, "medians": medians}
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
