"""Fixtures shared by all tests.

The suite never reaches the network: the Hub is switched off before anything of Transformers is imported.
"""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """Outputs of the original programs: the folder in `$ELMO_REFERENCE`, else `../shared/reference`."""
    folder = Path(os.environ.get("ELMO_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}; set ELMO_REFERENCE to their folder")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)
