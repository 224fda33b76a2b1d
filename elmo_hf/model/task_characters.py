"""A task's own character CNN: words from their code points, with a vocabulary of its own and no limit to their length.

The biLM reads bytes and at most `max_characters_per_word` of them; this reads the code points of the task's training
data. Source: AllenNLP's `characters` indexer and `CnnEncoder`, whose maximum is over windows wholly inside the word
since 1.2.2.
"""

import torch
from torch import Tensor, nn

from .configuration_elmo import ElmoConfig
from .feed_forward import ACTIVATIONS
from .initialization import starting_with
from .word_parts import check_ids, in_places

PADDING, END_OF_WORD = 0, 1


class ElmoTaskCharacters(nn.Module):
    """(batch, characters) ids -> (batch, words, output_size): convolutions, their largest value in each word.

    A filter wider than a word gives zero. All words are convolved as one text, so that memory is that of their
    characters, however long one of them is.

    Attributes:
        output_size: filters of all widths together.
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
        """Encode the words that `mask` marks; the others become zero.

        Args:
            code_point_ids: (batch, characters), integers: of every row the code points of all words that `mask` marks,
                1 behind each word, 0 for padding on either side.
            mask: (batch, words), bool.

        Raises:
            ValueError: another number of words than `mask` marks, or an id outside of the table.
        """
        ids = code_point_ids.to(mask.device).long()
        self._check(ids, mask)
        # All words one after the other, [total], and so many empty ones that every filter has a window.
        ids = torch.cat([ids[ids != PADDING], ids.new_full((self.widest_filter,), END_OF_WORD)])
        is_end = ids == END_OF_WORD
        word = is_end.cumsum(0) - is_end.long()  # the word of each character, its end included
        # Row 0, of what stands for no character, is only read by windows that do not count.
        characters = self.character_embeddings(ids - 1).T.unsqueeze(0)  # [1, size, total]
        count = int(mask.sum())
        parts = [self._maxima(convolution, characters, word, is_end, count) for convolution in self.convolutions]
        return in_places(torch.cat(parts, dim=-1), mask)

    def _maxima(self, convolution: nn.Module, characters: Tensor, word: Tensor, is_end: Tensor, count: int) -> Tensor:
        """[count, filters]: each filter's largest value over the windows that lie wholly inside a word."""
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
