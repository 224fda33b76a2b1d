"""The house rules that a reader relies on: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAVELLING = sorted((ROOT / "elmo_hf").glob("*_elmo.py"))

# What a file that travels with a checkpoint may import of its siblings, lowest first: data flows one way.
ORDER = [
    "configuration_elmo",
    "initialization",
    "labels",
    "layer_norm",
    "characters",
    "complete_files",
    "character_dictionary",
    "pos_tags",
    "pretokenization",
    "vocabulary",
    "packing",
    "fingerprint",
    "word_cache",
    "precision",
    "memory_pages",
    "prepared_weights",
    "onednn",
    "quantized_linear",
    "source",
    "builder",
    "native_lstm",
    "training",
    "inference_lstm",
    "step_kernels",
    "lstm",
    "operators",
    "character_tables",
    "character_embeddings",
    "scalar_mix",
    "softmax",
    "adaptive_softmax",
    "word_embeddings",
    "word_layer",
    "layer_alignment",
    "encodings",
    "tokenization_elmo",
    "context_word_layer",
    "bilstm",
    "transformer",
    "task_layers",
    "crf",
    "pooling",
    "pretrained",
    "base_model",
    "language_model",
    "masked_language_model",
    "token_classification",
    "sequence_classification",
    "multiple_choice",
    "question_answering",
    "modeling_elmo",
]


def imports_of(path: Path) -> list[tuple[int, str, list[str]]]:
    """(level, module, names) of every import statement of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            found += [(0, alias.name, []) for alias in node.names]
    return found


def test_every_travelling_file_has_its_place():
    assert {path.stem for path in TRAVELLING} == set(ORDER)


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.stem)
def test_travelling_files_import_lower_siblings_only(path):
    for level, module, _ in imports_of(path):
        assert level <= 1, f"{path.name} imports from above its folder"
        assert not module.startswith(("elmo_hf", "hub_upload")), f"{path.name} would need the package"
        if level == 1:
            assert module in ORDER, f"{path.name} imports {module!r}, which does not travel"
            assert ORDER.index(module) < ORDER.index(path.stem), f"{path.name} imports {module}, which is above it"


@pytest.mark.parametrize("folder", ["hub_upload", "examples", "benchmarks"])
def test_the_outside_uses_the_public_interface(folder):
    """`elmo_hf` itself, or one of its packages; never a module that holds internals."""
    public = {"elmo_hf", "elmo_hf.metrics", "elmo_hf.pretraining"}
    for path in (ROOT / folder).rglob("*.py"):
        for level, module, _ in imports_of(path):
            if level == 0 and module.split(".")[0] == "elmo_hf":
                assert module in public, f"{path.relative_to(ROOT)} imports {module}"
