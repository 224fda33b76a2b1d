"""Train translation or summarization with an ELMo encoder and a Transformers decoder, by Seq2SeqTrainer.

    python examples/run_translation.py --model_name_or_path elmo-folder --freeze_bilm --train_file train.en train.de \\
        --validation_file val.en val.de --test_file test.en test.de --output_dir translator \\
        --do_train --do_eval --do_predict

`--task summarization` scores by ROUGE instead of BLEU. `--help` lists all options; a single `.json` file of options
works too. Started again with the same `--output_dir`, a run continues from its last checkpoint.

The output folder is an ElmoEncoderDecoderModel with the encoder's tokenizer; the decoder's is in `target_tokenizer`:

    tokenizer = AutoTokenizer.from_pretrained("translator")
    target_tokenizer = AutoTokenizer.from_pretrained("translator", subfolder="target_tokenizer")
    model = AutoModelForSeq2SeqLM.from_pretrained("translator")
    ids = model.generate(**tokenizer(["A dog is running."], padding=True, return_tensors="pt"))
    print(target_tokenizer.batch_decode(ids, skip_special_tokens=True))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import EvalPrediction, PreTrainedTokenizerBase

from elmo_hf.finetuning import (
    PairArguments,
    TranslationTrainingArguments,
    TranslatorArguments,
    TranslatorTrainer,
    by_length,
    check_translator,
    encode_pairs,
    load_or_make_translator,
    option,
    parse,
    run,
    run_record,
    run_stages,
    texts_of,
    write_lines,
)
from elmo_hf.metrics import Bleu, Rouge


@dataclass
class DataArguments(PairArguments):
    """Options for data in two text files with one text per line, or in one file: `.tsv`, `.json` (a list), `.jsonl`."""

    bleu_tokenize: str = option("13a", "sacrebleu's tokenization: 13a, intl, zh, char, ...")
    rouge_tokenizer: Literal["english", "unicode"] = option(
        "english", "ROUGE's tokenization; unicode for other languages."
    )


def scorer(
    tokenizer: PreTrainedTokenizerBase, data: DataArguments, args: TranslationTrainingArguments
) -> Callable[[EvalPrediction], dict[str, float]] | None:
    """Make the scoring function, BLEU or ROUGE. References are decoded from the labels, in prediction order."""
    if not args.predict_with_generate:
        return None
    metric = Bleu() if args.task == "translation" else Rouge()

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        texts = {
            "predictions": texts_of(prediction.predictions, tokenizer),
            "references": texts_of(prediction.label_ids, tokenizer),
        }
        if args.task == "summarization":
            return metric.compute(**texts, tokenizer=data.rouge_tokenizer)
        scores = metric.compute(**texts, tokenize=data.bleu_tokenize)
        return {name: scores[name] for name in ("bleu", "brevity_penalty")}

    return compute_metrics


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run training and return all metrics, which are also in the output folder."""
    # Parse.
    model_args, data_args, args = parse(argv, TranslatorArguments, DataArguments, TranslationTrainingArguments)
    check_translator(model_args, args)

    # Data.
    splits, _ = data_args.read(args)
    orders = {name: by_length(pairs) if name != "train" else range(len(pairs)) for name, pairs in splits.items()}

    # Model.
    model, *tokenizers = load_or_make_translator(model_args, data_args, args, splits)

    # Train, evaluate, save.
    datasets = {
        name: encode_pairs(
            [pairs[index] for index in orders[name]], *tokenizers, data_args, cut_targets=name == "train"
        )
        for name, pairs in splits.items()
    }
    trainer = TranslatorTrainer(
        model, args, datasets, tokenizers, compute_metrics=scorer(tokenizers[1], data_args, args)
    )
    record = run_record(model, splits, [], (model_args, data_args, args))
    metrics, prediction = run_stages(trainer, record, {"bleu": "BLEU", "rougeL": "ROUGE-L"})
    if prediction is not None and args.predict_with_generate:
        texts = texts_of(prediction.predictions, tokenizers[1])
        in_file = dict(zip(orders["test"], texts, strict=True))
        lines = (" ".join(in_file[index].split()) + "\n" for index in range(len(texts)))
        write_lines(Path(args.output_dir) / "predictions.txt", lines)
    return metrics


if __name__ == "__main__":
    run(main)
