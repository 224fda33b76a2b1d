"""The supported versions of the libraries that this package stands on: one place says them, the package's metadata."""

from importlib import metadata

from packaging.requirements import Requirement

PACKAGE = "elmo-hf"
CHECKED = ("transformers", "torch", "huggingface-hub")


def check() -> None:
    """Refuse a library outside of its supported range.

    Raises:
        ImportError: names the library, its version and the range, in one line.
    """
    try:
        stated = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:  # run from its sources
        return
    for requirement in map(Requirement, stated):
        if requirement.marker is not None or requirement.name.replace("_", "-") not in CHECKED:
            continue
        installed = metadata.version(requirement.name)
        if not requirement.specifier.contains(installed, prereleases=True):
            raise ImportError(
                f"{PACKAGE} needs {requirement}, and {installed} is installed: pip install '{requirement}'"
            )
