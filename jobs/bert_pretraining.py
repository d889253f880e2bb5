"""Pre-train BERT on a text file, and find its LR schedule on the way.

Eight GPUs, BERT base:   python jobs/bert_pretraining.py --data /data/wiki.txt \\
                             --num-workers 8 --use-gpu
A laptop, tiny BERT:     python jobs/bert_pretraining.py --preset tiny --num-workers 0

The text has one document for each block of lines, blocks apart by blank lines. Without --data,
the text is Python's own: the topics of help() and the docstrings of its library. The same
arguments with the same --name continue a run that was stopped. On a cluster:
ray job submit -- python jobs/bert_pretraining.py ...
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ray_autolrs.cluster.job import add_common_arguments, config_from, kept_tokenizer, run_job
from ray_autolrs.workloads.bert.documents import documents_of, part_of
from ray_autolrs.workloads.bert.sentence_pairs import SPECIAL, train_wordpiece
from ray_autolrs.workloads.bert.task import PRESETS
from ray_autolrs.workloads.tokenizer_file import load_tokenizer


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="base",
        help="the model's size and the search's settings (default: base)",
    )
    parser.add_argument("--data", help="the text file (default: Python's own text)")
    parser.add_argument(
        "--tokenizer",
        help="a tokenizer.json with BERT's special tokens (default: WordPiece, trained on the text "
        "and kept in the run's folder)",
    )
    add_common_arguments(parser, name="bert")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    preset = PRESETS[arguments.preset]
    text = str(Path(arguments.data).absolute()) if arguments.data else None
    try:
        config = config_from(arguments, preset.config)
        documents = part_of(documents_of(text), "train")
        sentences = (sentence for document in documents for sentence in document)
        tokenizer = (
            load_tokenizer(Path(arguments.tokenizer), SPECIAL)
            if arguments.tokenizer
            else kept_tokenizer(arguments, lambda: train_wordpiece(sentences, preset.vocab_size))
        )
    except ValueError as error:
        parser.error(str(error))
    task = preset.task(tokenizer_json=tokenizer.to_str(), text=text)
    return run_job(task, config, arguments, say=print, test=task.test)


if __name__ == "__main__":
    main()
