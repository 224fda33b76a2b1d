"""ELMoForManyLangs' `Embedder` API for this package's models.

The original reads batches in random order while each starts from the state of the previous one, so no two runs agree.
Here, longer sentences always come first. State is carried from batch to batch and from call to call as in the original,
unless `carry_state=False` requests independent sentences.
"""

from collections.abc import Sequence

from elmo_hf.inference.carried_state import CarriedState
from elmo_hf.inference.embedding import Layers, Vectors, open_embedder
from elmo_hf.inference.loading import Name

from .loading import lists_of_words, read_bilm


class Embedder:
    """Embedder of sentences.

    Args:
        model_dir: folder of an original, folder of this package, or Hub name.
        batch_size: sentences per batch.
        carry_state: start each batch from the final state of the previous one.
    """

    def __init__(self, model_dir: Name, batch_size: int = 64, carry_state: bool = True) -> None:
        self.model_dir, self.batch_size, self.carry_state = model_dir, batch_size, carry_state
        self.model, self.tokenizer = read_bilm(model_dir, device=None)
        self.reset_states()

    def reset_states(self) -> None:
        """Clear the state, so that the next batch starts from zero."""
        self._carried = CarriedState(self.batch_size)

    def sents2elmo(self, sents: Sequence[Sequence[str]], output_layer: int = -1) -> list[Vectors]:
        """Compute one array per sentence.

        Args:
            sents: sentences as lists of words.
            output_layer: -1 for the mean of all layers, -2 for all layers, or a layer's number, 0 for the word layer.

        Returns:
            (words, width), or (layers, words, width) for all.

        Raises:
            ValueError: no such layer.
            TypeError: a sentence that is not a list of words.
        """
        choices: dict[int, Layers] = {-1: "average", -2: "all"}
        layers = choices.get(output_layer, output_layer)
        embedder = open_embedder(self.model, self.tokenizer, layers, False, 2048, 8, None, None)
        sentences = lists_of_words(sents)
        if not self.carry_state:
            return list(embedder.run(sentences))
        order = sorted(range(len(sentences)), key=lambda place: -len(sentences[place]))
        arrays = dict(zip(order, embedder.run((sentences[place] for place in order), self._carried), strict=True))
        return [arrays[place] for place in range(len(sentences))]
