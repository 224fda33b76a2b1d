"""Sentences as names of their datasets in HDF5: AllenNLP's `use_sentence_keys`.

HDF5 reads a slash in a name as a group. A sentence with slashes is found under its own text, as in AllenNLP's files,
unless another sentence has the name of one of these groups.
"""


class SentenceKeys:
    """Names of the sentences of a corpus, checked for conflicts.

    Args:
        reserved: names of other datasets in the file.
    """

    def __init__(self, reserved: tuple[str, ...] = ()) -> None:
        self._datasets = dict.fromkeys(reserved, "a name of this file's own")
        self._groups: dict[str, str] = {}

    def add(self, text: str, where: str) -> None:
        """Add the next sentence.

        Raises:
            ValueError: it cannot be a name, or conflicts with an earlier sentence; the message names both.
        """
        parts = [part for part in text.split("/") if part not in ("", ".")]
        name = "/".join(parts)
        groups = ["/".join(parts[:count]) for count in range(1, len(parts))]
        remedy = "leave use_sentence_keys out: sentence_to_index leads from a sentence to its number"
        is_storable = "\0" not in name and name == name.encode("utf-8", "ignore").decode()
        if not name or not is_storable:
            found = "a blank line" if not text else f"the sentence {text!r:.60}"
            raise ValueError(f"{where}: {found} cannot be a name in HDF5; remove it, or {remedy}")
        earlier = self._datasets.get(name) or self._groups.get(name)
        earlier = earlier or next((self._datasets[group] for group in groups if group in self._datasets), None)
        if earlier is not None:
            raise ValueError(
                f"{where}: the sentence {text!r:.60} has its name in HDF5 from {earlier} already: with "
                f"use_sentence_keys names must differ. Remove one, or {remedy}"
            )
        self._datasets[name] = where
        for group in groups:
            self._groups.setdefault(group, where)
