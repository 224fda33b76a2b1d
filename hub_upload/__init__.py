"""Conversion of original ELMo checkpoints to Transformers folders and back, with verification."""

from .common.errors import CheckpointError
from .convert import ConversionReport, convert
from .export import ExportReport, export
from .release import ReleaseReport, kept, release
from .verify import VerificationReport, verify

__all__ = [
    "CheckpointError",
    "ConversionReport",
    "ExportReport",
    "ReleaseReport",
    "VerificationReport",
    "convert",
    "export",
    "kept",
    "release",
    "verify",
]
