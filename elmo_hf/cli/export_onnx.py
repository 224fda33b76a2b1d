"""`elmo-hf export-onnx`: a model as an ONNX file."""

from typing import Any

from .models import add_model, chosen_model, chosen_output
from .options import add_flag, add_number
from .output import add_json, tell


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf export-onnx --model FOLDER --output FILE [options]",
        description="Write the biLM, a tagger or a classifier of texts as an ONNX file for any number of sentences and "
        "words, and check it with onnxruntime. Its inputs are the tokenizer's outputs.",
        example="elmo-hf export-onnx --model tagger --output tagger.onnx",
    )
    parser.add_argument("places", nargs="*", help="==SUPPRESS==")
    add_model(parser, "folder of a model, loaded as the class in its configuration (default: the shipped biLM)")
    parser.add_argument("--output", metavar="FILE", help="file to write, such as model.onnx")
    add_flag(
        parser,
        "--output_hidden_states",
        "also return all layers: hidden_states, (batch, layers, words, 2 * projection_size)",
    )
    add_number(parser, "--opset", "version of ONNX's operators", 18)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Load and export the model, and print the file's name."""
    output = chosen_output(options, "places", fewest=1)
    folder = chosen_model(options, "places", fewest=1)

    import logging

    import torch

    from elmo_hf import ElmoConfig, ElmoModel
    from elmo_hf.exporting import export_onnx
    from elmo_hf.model import modeling_elmo

    # It logs every operator of an unused library.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    config = ElmoConfig.from_pretrained(folder)
    kinds = {kind.__name__: kind for kind in modeling_elmo.MODELS}
    kind = kinds.get((config.architectures or [""])[0], ElmoModel) if options["model"] else ElmoModel
    model = kind.from_pretrained(folder, dtype=torch.float32)
    if options["device"]:
        model.to(torch.device(options["device"]))
    path = export_onnx(
        model,
        output,
        output_hidden_states=options["output_hidden_states"],
        opset_version=options["opset"],
    )
    size = path.stat().st_size
    tell(options, {"output": str(path), "bytes": size}, f"wrote {path}, {size / 1e6:.1f} MB")
    return 0
