"""How a program ends: which errors are its user's to mend, and the exit status and line of each.

Exit statuses: 0 done; 1 refused or failed, with one line on stderr that says how to mend it; 2 usage; and, as shells
have it, 128 plus the signal's number where Ctrl-C (130) or a closed pipe (141) ended it.
"""

import os
import sys
from contextlib import suppress

# By extra: the modules that it brings.
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
# Those of libraries that are no such errors: looked up only where the library is loaded.
FOREIGN = {
    "safetensors": "SafetensorError",
    "huggingface_hub.errors": "StrictDataclassError",
    "lzma": "LZMAError",
    "zlib": "error",
    "zipfile": "BadZipFile",
    "tarfile": "TarError",
}


def ending(error: BaseException) -> tuple[int, str] | None:
    """The exit status and the line for a user, empty for none; `None` for a fault of the program itself."""
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
    """The extra of this package that brings a module."""
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules.split()), None)


def leave_the_pipe() -> None:
    """Let Python's last flush of stdout go nowhere, where nobody reads it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
