"""`elmo-hf save-model`: the model folder of a pretraining run as it stands."""

from typing import Any

from .output import add_json, tell


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "save-model",
        usage="elmo-hf save-model RUN [options]",
        help="make the model folder of a pretraining run that was interrupted, as it stands",
        description="Write RUN/model, with tokenizer, card and curves, from the newest checkpoint of a pretraining run "
        "that has not ended. The run can still go on.",
        example="elmo-hf save-model run",
    )
    parser.add_argument("run_folder", metavar="RUN", help="the --output of `elmo-hf pretrain`")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`save_model_of_run`] and say where the model is."""
    from elmo_hf.pretraining import save_model_of_run

    summary = save_model_of_run(options["run_folder"])
    tell(
        options,
        {"model": str(summary.model_folder), "step": summary.step, "words": summary.words},
        f"{summary.model_folder}: the model after step {summary.step:,}, {summary.words:,} words seen",
    )
    return 0
