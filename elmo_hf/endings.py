"""Exit statuses of the programs, and the errors that a user can fix.

Exit statuses: 0 success; 1 refused or failed, with one line on stderr that gives the remedy; 2 usage error; and, as in
shells, 128 plus the signal's number after Ctrl-C (130) or a closed pipe (141).
"""

import os
import sys
from contextlib import suppress

# Modules installed by each extra.
EXTRAS = {
    "train": "accelerate datasets evaluate pyarrow rouge_score sacrebleu sklearn seqeval tensorboard",
    "plots": "matplotlib",
    "onnx": "onnx onnxruntime onnxscript",
    "tensorflow": "tensorflow",
    "peft": "peft",
    "gpu": "triton",
    "completion": "shtab",
}
REFUSALS = (ValueError, OSError, ImportError, RuntimeError, EOFError)
# Library errors outside of these classes, looked up only if the library is loaded.
FOREIGN = {
    "safetensors": "SafetensorError",
    "huggingface_hub.errors": "StrictDataclassError",
    "lzma": "LZMAError",
    "zlib": "error",
    "zipfile": "BadZipFile",
    "tarfile": "TarError",
}


def ending(error: BaseException) -> tuple[int, str] | None:
    """Exit status and message for the user (possibly empty); `None` for a bug of the program itself."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped"
    if isinstance(error, BrokenPipeError):
        return 141, ""
    if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name)):
        return 1, f"needs {error.name}, which is not installed: pip install 'elmo-hf[{extra}]'"
    foreign = [getattr(sys.modules[module], name) for module, name in FOREIGN.items() if module in sys.modules]
    if isinstance(error, (*REFUSALS, *foreign)):
        return 1, str(error) or type(error).__name__
    return None


def extra_of(module: str | None) -> str | None:
    """The extra of this package that installs a module."""
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules.split()), None)


def leave_the_pipe() -> None:
    """Redirect stdout to the null device, so that Python's final flush does not fail on a closed pipe."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
