"""`elmo-hf save-model`: save the model of an unfinished pretraining run."""

from typing import Any

from .output import add_json, tell


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf save-model RUN [options]",
        description="Write RUN/model, with tokenizer, card and curves, from the newest checkpoint of an unfinished "
        "pretraining run. The run can still be continued.",
        example="elmo-hf save-model run",
    )
    parser.add_argument("run_folder", metavar="RUN", help="the --output of `elmo-hf pretrain`")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`save_model_of_run`] and print the model's folder."""
    from elmo_hf.pretraining import save_model_of_run

    summary = save_model_of_run(options["run_folder"])
    tell(
        options,
        {"model": str(summary.model_folder), "step": summary.step, "words": summary.words},
        f"{summary.model_folder}: the model after step {summary.step:,}, {summary.words:,} words seen",
    )
    return 0
