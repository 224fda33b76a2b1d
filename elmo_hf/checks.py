"""Checks of numbers, shared by all functions that take them."""


def at_least_one(**numbers: float | None) -> None:
    """Raise `ValueError` for a number below 1, which the message names; `None` stands for a default."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
