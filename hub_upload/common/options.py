"""Options in JSON files: typed access, and conversion to `ElmoConfig`."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from elmo_hf import ElmoConfig

from .content import read_content
from .errors import CheckpointError

# Number of character ids in embedding programs: 256 bytes, begin and end of sentence and word, padding, and 0 for
# padded words. The training program does not count the last and writes 261; `bilm-tf`'s reader requires 262.
NUM_CHARACTERS = 262
DEFAULT_CHARACTERS_PER_WORD = 50
# Options have few nesting levels, and sizes fit 32 bits.
MAX_DEPTH, LARGEST_SIZE, LARGEST_FLOAT = 100, 2**31 - 1, 3.4e38


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: missing, not UTF-8, not JSON (the message has line and column), or not an object.
    """
    try:
        return parse_object(read_content(path).decode("utf-8"), path)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); fetch the file again") from None


def parse_object(text: str, where: object) -> dict[str, Any]:
    """Parse the JSON object in a text, with limited nesting.

    Raises:
        ValueError: not JSON, nested too deeply, or an integer of thousands of digits.
        CheckpointError: not an object; the message contains `where`.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds a {type(value).__name__}, expected a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in children for child in each if isinstance(child, dict | list)]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


class OptionsReader:
    """Typed access to nested options; errors name the file and the key.

    Args:
        values: the options.
        file: their file.
        place: their place in the file, for messages; none for the whole file.
    """

    def __init__(self, values: dict[str, Any], file: str, place: str = "") -> None:
        self.values, self.file, self.place = values, file, place

    def get(self, key: str, default: Any = None) -> Any:
        """The value at a dotted key; `default` if it or its parent is missing."""
        value: Any = self.values
        for part in key.split("."):
            if not isinstance(value, dict):
                raise CheckpointError(f"{self.file}: expected an object around {key!r}, found {value!r}")
            value = value.get(part)
            if value is None:
                return default
        return value

    def refuse(self, key: str, expected: str) -> CheckpointError:
        """The error for a value that is missing or not as expected."""
        value = self.get(key)
        found = "is missing" if value is None else f"is {value!r:.200}"
        return CheckpointError(
            f"{self.file}: {f'{self.place}.' if self.place else ''}{key} {found}, expected {expected}"
        )

    def size(self, key: str, default: int | None = None, lowest: int = 1) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= LARGEST_SIZE:
            raise self.refuse(key, f"an integer of at least {lowest}")
        return value

    def clip(self, key: str, notes: list[str]) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_FLOAT:
            raise self.refuse(key, "a number of at least 0, or null")
        if value == 0:
            notes.append(
                f"{key} is 0, which switches clipping off in AllenNLP (and would set every value to zero in "
                "TensorFlow): read as no clipping"
            )
            return None
        return float(value)

    def probability(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise self.refuse(key, "a probability below 1")
        return float(value)

    def filters(self, key: str) -> list[list[int]]:
        value = self.get(key)
        good = isinstance(value, list) and len(value) > 0
        for pair in value if good else ():
            good = good and isinstance(pair, list) and len(pair) == 2
            good = good and all(type(number) is int and 0 < number <= LARGEST_SIZE for number in pair)
        if not good:
            raise self.refuse(key, "a list of [width, count]")
        return value

    def choice(self, key: str, accepted: tuple[Any, ...], default: Any = None) -> Any:
        value = self.get(key, default)
        # Types are compared too, because `1 == True`.
        if not any(type(value) is type(one) and value == one for one in accepted):
            raise self.refuse(key, f"one of {', '.join(map(repr, accepted))}")
        return value


def make_config(values: dict[str, Any], file: str) -> ElmoConfig:
    """Create a configuration; its errors become a `CheckpointError` that names the file."""
    try:
        return ElmoConfig.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError) as error:
        # The strict dataclass wraps the original message.
        raise CheckpointError(f"{file}: {error.__cause__ or error}") from error
