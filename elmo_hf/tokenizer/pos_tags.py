"""POS tags and their ids."""

from collections.abc import Sequence

NO_TAG = 0
"""Id at boundaries, padding, and words without a tag."""


class PosTags:
    """A set of POS tags, whose ids begin at 1.

    Raises:
        TypeError: not a list of strings.
        ValueError: no tags, an empty tag, or a tag listed twice.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            raise TypeError(f"pos_tag_set is {tags!r}; expected a list of tags, all of them str")
        self.ids = {tag: number for number, tag in enumerate(tags, 1)}
        if not self.ids or "" in self.ids:
            raise ValueError(f"pos_tag_set is {list(tags)!r}; expected at least one tag, and none of them empty")
        if len(self.ids) != len(tags):
            twice = next(tag for tag in tags if list(tags).count(tag) > 1)
            raise ValueError(
                f"pos_tag_set lists {twice!r} twice; ids follow its order, so each tag may occur only once"
            )

    def ids_of(self, tags: Sequence[str | None], words: Sequence[str]) -> list[int]:
        """Ids of the words' tags, `NO_TAG` for `None`.

        Raises:
            ValueError: the numbers of tags and words differ, or a tag is not in the set.
        """
        if len(tags) != len(words):
            raise ValueError(
                f"{len(tags)} pos_tags for the {len(words)} words {' '.join(words[:8])!r}; expected one for each word"
            )
        try:
            return [NO_TAG if tag is None else self.ids[tag] for tag in tags]
        except KeyError as error:
            raise ValueError(
                f"the tag {error.args[0]!r} is not in pos_tag_set: {', '.join(self.ids)}; use the tags that the model "
                "was trained with, or None for a word without a tag"
            ) from None
