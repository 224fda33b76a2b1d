"""`elmo-hf info`: description of a model's folder, and of the kernels available here."""

import dataclasses
import sys
from typing import Any

from .output import add_json, tell


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf info [FOLDER] [options]",
        description="Show a model's family, shape, parameters, splitting rule and files, without loading it; without a "
        "folder, the installed versions and the kernels available here.",
        example="elmo-hf info elmo-folder",
    )
    parser.add_argument("model", nargs="?", metavar="FOLDER", help="folder of a model")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Describe the folder and the machine."""
    record: dict[str, Any] = {}
    lines: list[str] = []
    if options["model"] is not None:
        from elmo_hf.inference.describing import describe

        found = describe(options["model"])
        record = {**dataclasses.asdict(found), "files": [dict(zip(FILE, each)) for each in found.files]}
        rows = {"model": found.architecture, "family": found.family, **found.shape}
        rows["parameters"] = ", ".join(f"{count:,} {dtype}" for dtype, count in found.parameters.items()) or "none"
        rows["splitting"] = found.splitting
        lines += [_row(name, value) for name, value in rows.items()]
        width = max(len(name) for name, *_ in found.files)
        lines += ["files", *(f"  {name:<{width}}  {_bytes(size):>9}  {what}" for name, size, what in found.files)]
    record["here"] = here = _here()
    lines += ["here", *(f"  {_row(name, value)}" for name, value in here.items())]
    tell(options, record, "\n".join(lines))
    return 0


FILE = ("name", "bytes", "what")


def _here() -> dict[str, str]:
    """Installed versions and available kernels."""
    from importlib import metadata

    import torch

    from elmo_hf.kernels import serving
    from elmo_hf.version import __version__

    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "safetensors"))
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "versions": f"elmo-hf {__version__}, Python {sys.version.split()[0]}, {versions}",
        "devices": ", ".join([f"CPU ({torch.get_num_threads()} threads)", *gpus]),
        **serving(),
    }


def _row(name: str, value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
    return f"{name.replace('_', ' '):<20}  {text}"


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
