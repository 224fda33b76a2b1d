"""Where lines end."""

import io

import pytest

from elmo_hf.tokenizer.lines import split_lines


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a\n",
        "a\r",
        "a\r\n",
        "\n",
        "\r",
        "\r\r\n\n",
        "a\rb\nc\r\nd",
        "a\u2028b\x85c\x0cd\x0be\x1cf\u2029g\n",
        "\n\r",
    ],
)
def test_as_files_in_text_mode(text: str) -> None:
    expected = [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]
    assert split_lines(text) == expected
