"""Splitting of text into lines, the same for all readers."""


def split_lines(text: str) -> list[str]:
    r"""Split a text into lines, without line ends.

    A line ends at LF, CR LF or a lone CR, as in the original programs, which read files in Python's text mode
    (universal newlines). The other line breaks of `str.splitlines` (U+0085, U+2028, form feed, ...) are text. The last
    line may lack a line end; an empty text has no lines.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines
