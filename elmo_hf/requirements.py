"""Check of the required library versions, which are read from the package's metadata."""

from importlib import metadata

from packaging.requirements import Requirement

PACKAGE = "elmo-hf"
CHECKED = ("transformers", "torch", "huggingface-hub")


def check() -> None:
    """Check that the required libraries are in their supported ranges.

    Raises:
        ImportError: a library is out of its range; the message names it, its version and the range, in one line.
    """
    try:
        stated = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:  # run from source
        return
    for requirement in map(Requirement, stated):
        if requirement.marker is not None or requirement.name.replace("_", "-") not in CHECKED:
            continue
        installed = metadata.version(requirement.name)
        if not requirement.specifier.contains(installed, prereleases=True):
            raise ImportError(
                f"{PACKAGE} needs {requirement}, and {installed} is installed: pip install '{requirement}'"
            )
