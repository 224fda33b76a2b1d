"""The error that the old programs raise."""


class ConfigurationError(ValueError):
    """Arguments that contradict each other; AllenNLP's name for it."""
