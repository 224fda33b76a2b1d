"""Write CoNLL columns of words and tags as JSON lines, which `elmo-hf pretrain` and `perplexity` read.

    python examples/conll_to_json.py train.conll train.jsonl
    elmo-hf pretrain --train_data train.jsonl --text_column words --pos_column tags ...

Each line is an object with the words of a sentence and their tags. `--word_column` and `--tag_column` choose columns.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from corpus_files import CorpusError
from ner_data import Columns, read_file


def main(argv: Sequence[str] | None = None) -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conll", help="file with a word a line and a blank line between sentences")
    parser.add_argument("json", help="file of JSON lines to write")
    parser.add_argument("--word_column", type=int, default=0, help="column of the words, from 0")
    parser.add_argument("--tag_column", type=int, default=-1, help="column of the tags; -1 is the last")
    options = parser.parse_args(argv)
    columns = Columns(options.word_column, options.tag_column, any_tag=True)
    sentences = read_file(options.conll, columns)
    lines = [json.dumps({"words": words, "tags": tags}, ensure_ascii=False) + "\n" for words, tags in sentences]
    unfinished = Path(f"{options.json}.part")
    unfinished.write_text("".join(lines), encoding="utf-8")
    os.replace(unfinished, options.json)
    print(f"{options.json}: {len(sentences):,} sentences, {sum(len(words) for words, _ in sentences):,} words")


if __name__ == "__main__":
    try:
        main()
    except CorpusError as error:
        sys.exit(f"error: {error}")
