"""Formats of original checkpoints: each module reads one of them into a `Source`."""
