"""The exception raised by the old programs."""


class ConfigurationError(ValueError):
    """Contradictory arguments, under AllenNLP's name."""
