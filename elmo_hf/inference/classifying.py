"""Classification of documents of any length in bounded memory: `classify_document`."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from elmo_hf.checks import at_least_one
from elmo_hf.model.pooling import ElmoPooling
from elmo_hf.model.sequence_classification import ElmoForSequenceClassification
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .chunks import Chunks
from .documents import Features, needs_all_words, read_features
from .evaluation import in_evaluation
from .loading import Name, load_model, load_tokenizer


def classify_document(
    words: str | Iterable[str],
    model: ElmoForSequenceClassification | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    chunk_words: int = 2048,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """Classify a document as one sequence, chunk by chunk. The scores equal those of the model on the whole document.

    The states of the biLM and of the task's own biLSTM carry over from chunk to chunk, as in `embed_document`, and so
    does pooling. Only one chunk is held in memory; words and states are kept in a temporary file.

    Args:
        words: any iterable of the document's words; or its text, which the tokenizer splits and which is then in
            memory.
        model: the classifier, or the folder of its checkpoint.
        tokenizer: the model's tokenizer; by default the one in its checkpoint's folder.
        chunk_words: words per chunk.
        device, dtype: for a model given as a folder; by default a GPU if there is one, and the stored dtype.

    Returns:
        The score of each label, in label order: a softmax probability, an independent probability for multi-label
        models, or the value of a regression.

    Raises:
        TypeError: a word that is not a string.
        ValueError: an impossible option; a checkpoint of another kind of model; a classifier of pairs, or one that
            reads POS tags; a Transformer, or a mix normalized by the statistics of all words, since both need the whole
            document at once.
    """
    at_least_one(chunk_words=chunk_words)
    classifier = in_evaluation(load_model(model, ElmoForSequenceClassification, device, dtype))
    config = classifier.config
    reason = needs_all_words(config)
    if reason is not None:
        raise ValueError(reason)
    for name, expected in (("sentence_pairs", "one of single texts"), ("num_pos_tags", "one that reads words alone")):
        if getattr(config, name):
            raise ValueError(f"{name}={getattr(config, name)}: a document is words alone; expected {expected}")
    splitter = load_tokenizer(tokenizer, model)
    with Chunks(splitter, words, chunk_words) as chunks:
        logits = _logits(classifier, read_features(classifier, splitter, chunks))
    if config.problem_type == "multi_label_classification":
        logits = logits.sigmoid()
    elif config.problem_type != "regression" and classifier.num_labels > 1:
        logits = logits.softmax(dim=-1)
    return dict(zip(config.label_names, logits.tolist(), strict=True))


@torch.no_grad()
def _logits(model: ElmoForSequenceClassification, chunks: Iterator[Features]) -> Tensor:
    """Logits of the whole document, (num_labels,), float32 or wider."""
    pooling = model.sentence_encoder.pooling
    # As in `words_to_pool`: boundaries are pooled only if there are no words.
    words, everything = _RunningPool(pooling), _RunningPool(pooling)
    for chunk in chunks:
        mask = chunk.inputs["attention_mask"].bool()
        words.add(chunk.features, model.without_boundaries(mask, chunk.inputs["input_ids"]))
        everything.add(chunk.features, mask)
    pooled = (words if words.values else everything).pooled().to(model.device, model.dtype)
    logits = model.classifier(model.sentence_encoder.reduce(pooled))[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _RunningPool:
    """Incremental [`ElmoPooling`] of a text that arrives in parts.

    For a mean and for attention, every part has its own result and the logarithm of its weight in the whole.

    Attributes:
        values: pooled vectors of each part with words, (kinds of pooling, width), float64 on the CPU (MPS has none).
        weights: their weights, (kinds of pooling,), likewise.
    """

    def __init__(self, pooling: ElmoPooling) -> None:
        self.pooling = pooling
        self.values: list[Tensor] = []
        self.weights: list[Tensor] = []

    def add(self, features: Tensor, mask: Tensor) -> None:
        """Add the words marked by `mask` (1, words), with features (1, words, width)."""
        if not mask.any():
            return
        ways = self.pooling.ways
        count = mask.sum().cpu().double().log()
        weights = [count if way == "mean" else torch.zeros((), dtype=torch.float64) for way in ways]
        if "attention" in ways:
            scores = self.pooling.attention(features[mask]).cpu().double()
            weights[ways.index("attention")] = scores.logsumexp(dim=0)[0]
        self.values.append(self.pooling(features, mask).cpu().double().unflatten(-1, (len(ways), -1))[0])
        self.weights.append(torch.stack(weights))
        if len(self.values) == 2:
            self.values, self.weights = [self._joined()], [torch.stack(self.weights).logsumexp(dim=0)]

    def _joined(self) -> Tensor:
        values = torch.stack(self.values)  # [parts, ways, width]
        mean = (torch.stack(self.weights).softmax(dim=0).unsqueeze(-1) * values).sum(dim=0)
        rows = {"max": values.amax(dim=0), "min": values.amin(dim=0)}
        return torch.stack([rows.get(way, mean)[number] for number, way in enumerate(self.pooling.ways)])

    def pooled(self) -> Tensor:
        """Pooled vector (1, pooled width), float64 on the CPU."""
        if not self.values:
            raise ValueError("no words to pool: expected one part with words at least")
        return self.values[0].flatten()[None]
