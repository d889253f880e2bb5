"""Train a Transformer to translate, and find its LR schedule on the way.

Eight GPUs, base model:  python jobs/transformer_translation.py --data /data/wmt14 \\
                             --num-workers 8 --use-gpu
A laptop, small model:   python jobs/transformer_translation.py --preset small --data data \\
                             --num-workers 0

The folder holds the aligned files train.en, train.de, val.en, val.de, test.en and test.de, one
sentence a line; val is for the search, test for BLEU at the end. For files of 25,000 sentences
out of Debian's packages, see: python -m pydoc ray_autolrs.workloads.translation.libreoffice_help

The same arguments with the same --name continue a run that was stopped. On a cluster:
ray job submit -- python jobs/transformer_translation.py ...
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ray_autolrs.cluster.job import add_common_arguments, config_from, kept_tokenizer, run_job
from ray_autolrs.workloads.tokenizer_file import load_tokenizer
from ray_autolrs.workloads.translation.parallel_text import SPECIAL, read_pairs, train_bpe
from ray_autolrs.workloads.translation.task import PRESETS, check_files, part_files


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
    parser.add_argument("--data", required=True, help="the folder of the aligned files")
    parser.add_argument("--source", default="en", help="ending of the source files (default: en)")
    parser.add_argument("--target", default="de", help="ending of the target files (default: de)")
    parser.add_argument(
        "--tokenizer",
        help="a tokenizer.json whose first tokens are <pad>, <unk>, <s> and </s> (default: byte "
        "pairs, trained on both files and kept in the run's folder)",
    )
    add_common_arguments(parser, name="translation")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    preset = PRESETS[arguments.preset]
    folder = str(Path(arguments.data).absolute())
    languages = (arguments.source, arguments.target)
    try:
        config = config_from(arguments, preset.config)
        check_files(folder, *languages)
        tokenizer = (
            load_tokenizer(Path(arguments.tokenizer), SPECIAL, are_first=True)
            if arguments.tokenizer
            else kept_tokenizer(
                arguments,
                lambda: train_bpe(
                    read_pairs(*part_files(folder, "train", *languages)), preset.vocab_size
                ),
            )
        )
    except ValueError as error:
        parser.error(str(error))
    task = preset.task(
        tokenizer_json=tokenizer.to_str(),
        folder=folder,
        source=arguments.source,
        target=arguments.target,
    )
    return run_job(task, config, arguments, say=print, test=task.test)


if __name__ == "__main__":
    main()
