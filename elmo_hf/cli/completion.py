"""`elmo-hf completion`: shell completion of the commands and options of `elmo-hf`."""

from typing import Any


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf completion SHELL",
        description="Print a script that lets a shell complete commands and options (pip install "
        "'elmo-hf[completion]').",
        example="elmo-hf completion bash > ~/.local/share/bash-completion/completions/elmo-hf",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Print the script that shtab generates from all parsers."""
    import shtab

    from elmo_hf.cli import PROGRAM

    print(shtab.complete(PROGRAM.parser(*PROGRAM.commands), shell=options["shell"]))
    return 0
