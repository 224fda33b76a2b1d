"""Translation and summarization with an ELMo encoder and a decoder."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from elmo_hf.model.encoder_decoder import ElmoEncoderDecoderModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .batching import BatchSize, read_in_batches
from .evaluation import in_evaluation
from .loading import Name, load_tokenizer

TARGET_TOKENIZER = "target_tokenizer"  # subfolder of a translator's folder


def translate_iter(
    texts: Iterable[str],
    folder: Name,
    *,
    batch_words: int = 1024,
    window: int = 8,
    num_beams: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[str]:
    """Translate (or summarize) texts, in order.

    Args:
        texts: any iterable, read as a stream.
        folder: a translator with its two tokenizers, as saved by `examples/run_translation.py`.
        batch_words: words per batch of texts of similar length.
        window: number of batches whose texts are sorted by length together.
        num_beams: beam size; by default that of the folder's generation configuration.
        device: device to run on; by default the GPU if there is one.

    Raises:
        OSError: no such folder, or no target tokenizer in it.
        ValueError: a checkpoint of another kind of model.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = load_tokenizer(None, folder)
    try:
        target: Any = AutoTokenizer.from_pretrained(folder, subfolder=TARGET_TOKENIZER)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{os.fspath(folder)} has no {TARGET_TOKENIZER}/: expected the folder of a translator, as "
            "examples/run_translation.py saves it"
        ) from error
    model: Any = ElmoEncoderDecoderModel.from_pretrained(folder)
    return _translated(texts, in_evaluation(model.to(place)), tokenizer, target, batch_words, window, num_beams)


@torch.no_grad()
def _translated(
    texts: Iterable[str],
    model: Any,
    tokenizer: ElmoTokenizer,
    target: PreTrainedTokenizerBase,
    batch_words: int,
    window: int,
    num_beams: int | None,
) -> Iterator[str]:
    beams = {} if num_beams is None else {"num_beams": num_beams}

    def read(batch: list[str]) -> list[str]:
        inputs = tokenizer(batch, padding=True, padding_side="right", return_tensors="pt").to(model.device)
        ids = model.generate(**inputs, **beams)
        found = target.batch_decode(ids, skip_special_tokens=True)
        return [translated.strip() if text.strip() else "" for text, translated in zip(batch, found, strict=True)]

    def length(text: str) -> int:
        return len(tokenizer.words(text)) + tokenizer.num_special_tokens_to_add()

    yield from read_in_batches(texts, read, length, BatchSize(words=batch_words), window)
