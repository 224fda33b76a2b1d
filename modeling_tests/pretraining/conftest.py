"""Fixtures of the pretraining tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from modeling_tests.pretraining.runs import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train.txt`, `held_out.txt` and `vocab.txt`."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Reset Accelerate's state, of which a process has only one."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
