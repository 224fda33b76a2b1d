"""simple_elmo's `ElmoModel` API (0.9) for this package's models.

As in the original, the batches of a call carry state, the first batch is read twice (`warmup`), and every call starts
from zero states. Substitutes are predicted from all words on one side, where the original sees a single word.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from elmo_hf.inference.carried_state import CarriedState
from elmo_hf.inference.embedding import Embedder, Layers, Vectors, open_embedder
from elmo_hf.inference.loading import Name
from elmo_hf.model.base_model import ElmoModel as BaseModel
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.model.softmax import frequency_ranks

from .loading import lists_of_words, read_bilm, read_language_model

Choice = Literal["average", "top", "all"]


class ElmoModel:
    """Embedder of lists of sentences into one array.

    Args:
        count_padding: average over the length of a batch's longest sentence, as the original does, whose word layer is
            nonzero at padding. Otherwise average over each sentence's own words.

    Attributes:
        batch_size: sentences per batch.
        vector_size: width of a vector.
        n_layers: number of layers, including the word layer.
        max_chars: maximum number of characters per word.
    """

    batch_size: int
    vector_size: int
    n_layers: int
    max_chars: int

    def __init__(self, count_padding: bool = False) -> None:
        self._count_padding = count_padding
        self._model: BaseModel | None = None
        self._language_model: ElmoForPreTraining | None = None
        self._carried = CarriedState()

    def load(self, directory: Name, max_batch_size: int = 32, limit: int = 100, full: bool = False) -> str:
        """Load a model.

        Args:
            directory: folder or ZIP of an original, folder of this package, or Hub name.
            max_batch_size: sentences per batch.
            limit: unused; in the original, the number of words whose characters are cached.
            full: also load the softmax and vocabulary, for substitutes.

        Returns:
            A message that the model is loaded.
        """
        if full:
            self._language_model, self._tokenizer = read_language_model(directory)
            self._model = self._language_model.elmo
        else:
            self._language_model = None
            self._model, self._tokenizer = read_bilm(directory, device=None)
        config = self._model.config
        self.batch_size, self.vector_size = max_batch_size, config.hidden_size
        self.n_layers, self.max_chars = config.num_mixed_layers, config.max_characters_per_word
        return "The model is now loaded."

    def get_elmo_vectors(
        self, texts: Sequence[Sequence[str]], warmup: bool = True, layers: Choice = "average", session: Any = None
    ) -> NDArray[np.float64]:
        """The vectors of all words.

        Args:
            texts: sentences as lists of words.
            warmup: read the first batch once beforehand.
            layers: `"average"`, the mean of all layers; `"top"`, the last layer; or `"all"`.
            session: any value but `None` continues from the state of the last call.

        Returns:
            (sentences, longest sentence, vector_size), or (sentences, n_layers, longest sentence, vector_size) for
            `"all"`, padded with zeros.
        """
        arrays = self._arrays(texts, warmup, layers, session)
        width = max((len(text) for text in texts), default=0)
        inner = (self.n_layers, width) if layers == "all" else (width,)
        vectors = np.zeros((len(texts), *inner, self.vector_size))
        for number, array in enumerate(arrays):
            vectors[number, ..., : array.shape[-2], :] = array
        return vectors

    def get_elmo_vector_average(
        self, texts: Sequence[Sequence[str]], warmup: bool = True, layers: Choice = "average", session: Any = None
    ) -> NDArray[np.float64]:
        """The mean vector of each sentence's words, scaled to length 1; arguments as in `get_elmo_vectors`.

        Returns:
            (sentences, vector_size), or (sentences, n_layers, vector_size) for `"all"`, of length 1 over all layers.
            Zeros for an empty sentence.
        """
        arrays = self._arrays(texts, warmup, layers, session)
        inner = (self.n_layers,) if layers == "all" else ()
        averages = np.zeros((len(texts), *inner, self.vector_size))
        padding = self._padding_vector(layers) if self._count_padding else None
        for number, array in enumerate(arrays):
            total = array.sum(axis=-2, dtype=np.float64)
            if padding is not None:
                first = number - number % self.batch_size
                longest = max(len(text) for text in texts[first : first + self.batch_size])
                total += (longest - array.shape[-2]) * padding
            averages[number] = total / (np.linalg.norm(total) or 1.0)
        return averages

    def get_elmo_substitutes(
        self, data: Sequence[str | Sequence[str]], topn: int = 3, nodelimiters: bool = True
    ) -> list[list[dict[str, Any]]]:
        """Predict substitutes for each word from its left and from its right context.

        Args:
            data: sentences, as texts with spaces between words or as lists of words.
            topn: number of words per direction.
            nodelimiters: leave out `<S>` and `</S>`.

        Returns:
            `{"word", "forward", "backward"}` for each word of each sentence. Each direction has `candidate_words`, best
            first, their vocabulary ids `candidates`, and their natural log-probabilities `logp`.

        Raises:
            ValueError: a model that was not loaded with `full=True`.
        """
        if self._language_model is None:
            raise ValueError("no softmax and vocabulary: load the model with full=True")
        sentences = [text.split() if isinstance(text, str) else list(text) for text in data]
        embedder = self._embedder("top")
        embedder.boundaries = True
        found = []
        for words, vectors in zip(sentences, embedder.run(sentences), strict=True):
            forward, backward = np.split(vectors, 2, axis=-1)
            # Position 0 is <S>, which predicts the first word; the backward direction mirrors this.
            sides = {
                name: self._candidates(self._language_model, contexts, topn, nodelimiters)
                for name, contexts in (("forward", forward[:-2]), ("backward", backward[2:]))
            }
            found.append(
                [
                    {"word": word, "forward": sides["forward"][place], "backward": sides["backward"][place]}
                    for place, word in enumerate(words)
                ]
            )
        return found

    @torch.no_grad()
    def _candidates(
        self, model: ElmoForPreTraining, contexts: Vectors, topn: int, nodelimiters: bool
    ) -> list[dict[str, list[Any]]]:
        """The most probable words for each context [words, P]."""
        tokenizer, weight = self._tokenizer, next(model.softmax.parameters())
        scores = model.softmax.logits(torch.from_numpy(contexts).to(weight)).float().log_softmax(dim=-1)
        if nodelimiters:
            scores[:, [tokenizer.bos_token_id, tokenizer.eos_token_id]] = -torch.inf
        values, ids = scores.topk(topn, dim=-1)
        excluded = model.softmax.excluded_ids
        return [
            {
                "candidates": frequency_ranks(row, excluded).tolist(),
                "candidate_words": list(tokenizer.convert_ids_to_tokens(row.tolist())),
                "logp": logp.tolist(),
            }
            for row, logp in zip(ids.cpu(), values.cpu(), strict=True)
        ]

    def _embedder(self, layers: Layers) -> Embedder:
        if self._model is None:
            raise ValueError("model=None: expected a loaded model; call load(folder) first")
        return open_embedder(self._model, self._tokenizer, layers, False, 2048, 8, None, None)

    def _arrays(self, texts: Sequence[Sequence[str]], warmup: bool, layers: Choice, session: Any) -> Iterator[Vectors]:
        if layers not in ("average", "top", "all"):
            raise ValueError(f"layers={layers!r}: expected 'average', 'top' or 'all'")
        embedder = self._embedder(layers)
        if session is None or self._carried.rows != self.batch_size:
            self._carried = CarriedState(self.batch_size)
        sentences = lists_of_words(texts)
        if warmup:
            for _ in embedder.run(sentences[: self.batch_size], self._carried):
                pass
        return embedder.run(sentences, self._carried)

    @torch.no_grad()
    def _padding_vector(self, layers: Choice) -> NDArray[np.float64]:
        """The original's layers at padding, where the word layer encodes a row of zeros."""
        assert self._model is not None
        row = torch.zeros(1, 1, self.max_chars, dtype=torch.int64, device=self._model.device)
        word = self._model.embeddings(row, mask=torch.ones(1, 1, dtype=torch.bool, device=row.device))[0, 0]
        all_layers = np.zeros((self.n_layers, self.vector_size))
        all_layers[0] = np.tile(word.cpu().double().numpy(), 2)
        return {"all": all_layers, "average": all_layers.mean(axis=0), "top": all_layers[-1]}[layers]
