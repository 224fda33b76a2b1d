"""Character CNN of a task model, over code points, for words of any length.

The biLM reads at most `max_characters_per_word` bytes of a word; this CNN reads all of its code points, with a
vocabulary from the task's training data. Source: AllenNLP's `characters` indexer and `CnnEncoder`, which since 1.2.2
pools only windows wholly inside the word.
"""

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .feed_forward import ACTIVATIONS
from .initialization import starting_with
from .word_parts import check_ids, scatter_words

PADDING, END_OF_WORD = 0, 1


class ElmoTaskCharacters(nn.Module):
    """Convolutions over code points with max-pooling per word: (batch, characters) -> (batch, words, output_size).

    A filter wider than the word gives zero. All words are convolved as one sequence, so that a long word does not
    increase the memory of the others.

    Attributes:
        output_size: number of filters of all widths.
    """

    def __init__(self, config: ElmoConfig) -> None:
        super().__init__()
        size = config.task_character_size
        table = nn.Embedding(config.num_task_characters, size, padding_idx=0)
        self.character_embeddings = starting_with(table, "uniform", (3 / size) ** 0.5)
        self.convolutions = nn.ModuleList(
            starting_with(nn.Conv1d(size, count, width), "normal", (width * size) ** -0.5)
            for width, count in config.task_character_filters
        )
        self.activation = ACTIVATIONS[config.task_character_activation]
        self.widest_filter = max(width for width, _ in config.task_character_filters)
        self.output_size: int = sum(count for _, count in config.task_character_filters)

    def forward(self, code_point_ids: Tensor, mask: Tensor) -> Tensor:
        """Encode the words where `mask` is true; the others become zero.

        Args:
            code_point_ids: (batch, characters), integers: for each row, the code points of all words where `mask` is
                true, 1 after each word, 0 for padding on either side.
            mask: (batch, words), bool.

        Returns:
            (batch, words, output_size).

        Raises:
            ValueError: the number of words differs from that of `mask`, or an id is outside the table.
        """
        ids = code_point_ids.to(mask.device).long()
        self._check(ids, mask)
        # All words concatenated, [total], and enough empty words that the widest filter has a window.
        ids = torch.cat([ids[ids != PADDING], ids.new_full((self.widest_filter,), END_OF_WORD)])
        is_end = ids == END_OF_WORD
        word = is_end.cumsum(0) - is_end.long()  # the word of each character, its end included
        # Ends of words look up row 0; only windows that are discarded contain them.
        characters = self.character_embeddings(ids - 1).T.unsqueeze(0)  # [1, size, total]
        count = int(mask.sum())
        parts = [self._maxima(convolution, characters, word, is_end, count) for convolution in self.convolutions]
        return scatter_words(torch.cat(parts, dim=-1), mask)

    def _maxima(self, convolution: nn.Module, characters: Tensor, word: Tensor, is_end: Tensor, count: int) -> Tensor:
        """[count, filters]: maximum of each filter over the windows wholly inside a word."""
        assert isinstance(convolution, nn.Conv1d)
        beyond = convolution.kernel_size[0] - 1
        windows = convolution(characters)[0].T  # [total - beyond, filters]
        first = word[: len(windows)]
        is_inside = (first == word[beyond:]) & ~is_end[beyond:]
        maxima = windows.new_full((count, windows.shape[-1]), -torch.inf)
        where = first[is_inside].unsqueeze(-1).expand(-1, windows.shape[-1])
        maxima = maxima.scatter_reduce(0, where, self.activation(windows[is_inside]), "amax")
        return maxima.masked_fill(maxima.isneginf(), 0.0)

    def _check(self, ids: Tensor, mask: Tensor) -> None:
        words, ends = mask.sum(dim=1), (ids == END_OF_WORD).sum(dim=1) if ids.dim() == 2 else None
        if ends is None or len(ends) != len(words) or not torch.equal(ends, words):
            found = "" if ends is None else f" and holds {ends.tolist()} words"
            raise ValueError(
                f"code_point_ids has shape {tuple(ids.shape)}{found}: expected (batch, characters) with the "
                f"{words.tolist()} words of attention_mask. Pass all that the tokenizer returns, model(**encoding)"
            )
        rows = self.character_embeddings.num_embeddings
        remedy = f"num_task_characters={rows}. Make them with the tokenizer that belongs to the model"
        check_ids(ids, rows + 1, "code_point_ids holds", remedy)
