"""Code files of older versions in the folders that they saved."""

import zlib
from pathlib import Path

# Code files that were saved with each part when all modules lay in one folder: names without the suffix `_elmo.py`, and
# CRC-32 checksums.
BEFORE_THE_ROOMS = {
    "model": """
        adaptive_softmax:2a51cf90 alignment:62212422 character_convolution:364b9d13 context_word_layer:b7dcbe32
        crf:71a04f54 embeddings:557a1135 encoder:c189c5ef fingerprint:81a68c72 initialization:d589879e labels:7c651766
        language_model:9c91c4b6 layer_norm:94512910 lstm:46ad3e51 lstm_gpu:f213e2d2 lstm_inference:860d4330
        lstm_kernels:6b9687fb lstm_native:c7e625f8 lstm_training:cff42872 masked_language_model:f7fd0a43
        memory_pages:41097d40 model:91239e3a multiple_choice:47787d56 native_code:36c91e4e native_library:2eb6f817
        packed_linear:780a20e2 packing:a14bcadf pooling:3f2a122c precision:8fdbd48f pretrained:ce9bf098
        quantized_linear:085b5c7c question_answering:cf7db8e9 scalar_mix:c43d2dc5 sequence_classification:100f44f5
        softmax:b4a24df9 task_layers:41bc6bd3 token_classification:cecb3175 transformer:34f56275 weight_packs:03be2685
        word_cache:691eff44 word_embeddings:68f09279 word_layer:78c2e0b7
    """,
    "tokenizer": """
        character_dictionary:9d419679 characters:bb06b8ec complete_files:fbfbfebb encodings:1a5cb38a pos_tags:981d2f4f
        pretokenization:21f02a83 vocabulary:392fdbd3
    """,
}
# Later files whose content has since moved into the installed package: names without `.py`.
OLD_CODE = {
    "model": """
        damaged_folders:8887660b prepared_weights:9f0bd7d5 weight_sizes:ade89baf word_cache:21ac85e8
    """,
    "tokenizer": "damaged_files:c326887b",
}


def remove_old_code(folder: Path, part: str) -> None:
    """Delete code files written by older versions, recognized by name and content; other files are kept.

    Args:
        folder: folder of a checkpoint that was just saved by this version.
        part: `"model"` or `"tokenizer"`.
    """
    entries = [(entry, "_elmo.py") for entry in BEFORE_THE_ROOMS[part].split()]
    for entry, suffix in [*entries, *((entry, ".py") for entry in OLD_CODE[part].split())]:
        stem, checksum = entry.split(":")
        path = folder / f"{stem}{suffix}"
        if path.is_file() and zlib.crc32(path.read_bytes()) == int(checksum, 16):
            path.unlink()
