"""The house rules that a reader relies on: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAVELLING = sorted((ROOT / "elmo_hf").glob("*_elmo.py"))

# What a file that travels with a checkpoint may import of its siblings, lowest first: data flows one way.
ORDER = [
    "configuration_elmo",
    "initialization_elmo",
    "labels_elmo",
    "layer_norm_elmo",
    "characters_elmo",
    "complete_files_elmo",
    "character_dictionary_elmo",
    "pos_tags_elmo",
    "pretokenization_elmo",
    "vocabulary_elmo",
    "packing_elmo",
    "fingerprint_elmo",
    "word_cache_elmo",
    "precision_elmo",
    "memory_pages_elmo",
    "weight_packs_elmo",
    "packed_linear_elmo",
    "quantized_linear_elmo",
    "native_code_elmo",
    "native_library_elmo",
    "lstm_native_elmo",
    "lstm_training_elmo",
    "lstm_inference_elmo",
    "lstm_kernels_elmo",
    "lstm_gpu_elmo",
    "lstm_elmo",
    "character_convolution_elmo",
    "embeddings_elmo",
    "scalar_mix_elmo",
    "softmax_elmo",
    "adaptive_softmax_elmo",
    "word_embeddings_elmo",
    "word_layer_elmo",
    "alignment_elmo",
    "encodings_elmo",
    "tokenization_elmo",
    "context_word_layer_elmo",
    "encoder_elmo",
    "transformer_elmo",
    "task_layers_elmo",
    "crf_elmo",
    "pooling_elmo",
    "pretrained_elmo",
    "model_elmo",
    "language_model_elmo",
    "masked_language_model_elmo",
    "token_classification_elmo",
    "sequence_classification_elmo",
    "multiple_choice_elmo",
    "question_answering_elmo",
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
