"""`elmo-hf export-onnx`: a model as an ONNX file."""

from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export-onnx",
        dataclass_types=[],
        help="write a model as an ONNX file, checked with onnxruntime",
        description="Write the biLM, a tagger or a classifier of texts as an ONNX file for any number of sentences and "
        "words, and check it with onnxruntime. Its inputs are what the tokenizer returns.",
    )
    parser.intermixed = True
    parser.add_argument(
        "model",
        nargs="?",
        help="folder of a model, of the class that its configuration names (default: the biLM of the shipped English "
        "model)",
    )
    parser.add_argument("output", help="file to write, such as model.onnx")
    parser.add_argument(
        "--output_hidden_states",
        "--output-hidden-states",
        action="store_true",
        help="also return all layers: hidden_states, (batch, layers, words, 2 * projection_size)",
    )
    parser.add_argument("--opset", type=int, default=18, help="version of ONNX's operators (default 18)")
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Load, export, and print the file's name."""
    import torch

    from elmo_hf import ElmoConfig, ElmoModel
    from elmo_hf.exporting import export_onnx
    from elmo_hf.inference.loading import named
    from elmo_hf.model import modeling_elmo

    folder = named(options["model"])
    config = ElmoConfig.from_pretrained(folder)
    kinds = {kind.__name__: kind for kind in modeling_elmo.MODELS}
    kind = ElmoModel if options["model"] is None else kinds.get((config.architectures or [""])[0], ElmoModel)
    model = kind.from_pretrained(folder, dtype=torch.float32)
    path = export_onnx(
        model,
        options["output"],
        output_hidden_states=options["output_hidden_states"],
        opset_version=options["opset"],
    )
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0
