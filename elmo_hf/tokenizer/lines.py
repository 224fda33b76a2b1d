"""Where a line ends: one rule for every reader of text."""


def split_lines(text: str) -> list[str]:
    r"""The lines of a text, without their ends.

    A line ends at LF, CR LF or a lone CR, as in the original programs, which read files in Python's text mode
    (universal newlines). What else `str.splitlines` takes for a line break (U+0085, U+2028, form feed, ...) is text.
    The last line needs no end; a text without characters has no line.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines
