"""Convert CoNLL columns of words and tags to JSON lines, which `elmo-hf pretrain` and `perplexity` read.

    python examples/conll_to_json.py train.conll train.jsonl
    elmo-hf pretrain --train_data train.jsonl --text_column words --pos_column tags ...

Each line is an object with the words of a sentence and their tags. `--word_column` and `--tag_column` choose columns.
"""

import argparse
import json
from collections.abc import Sequence

from elmo_hf.finetuning import TagColumns, read_tagged, run, write_lines


def main(argv: Sequence[str] | None = None) -> None:
    """Run the conversion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conll", help="file with one word per line and blank lines between sentences")
    parser.add_argument("json", help="JSON-lines file to write")
    parser.add_argument("--word_column", type=int, default=0, help="column of the words, from 0")
    parser.add_argument("--tag_column", help="column of the tags (default: the last; in CoNLL-U, upos)")
    options = parser.parse_args(argv)
    columns = TagColumns(options.word_column, options.tag_column, any_tag=True)
    sentences = read_tagged(options.conll, columns)
    lines = [json.dumps({"words": words, "tags": tags}, ensure_ascii=False) + "\n" for words, tags in sentences]
    write_lines(options.json, lines)
    print(f"{options.json}: {len(sentences):,} sentences, {sum(len(words) for words, _ in sentences):,} words")


if __name__ == "__main__":
    run(main)
