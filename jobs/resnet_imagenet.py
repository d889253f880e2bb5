"""Train a residual network on ImageNet, CIFAR-10 or Fashion-MNIST, and find its LR schedule.

Eight GPUs, ResNet-50:     python jobs/resnet_imagenet.py --data /data/imagenet \\
                               --num-workers 8 --use-gpu
A laptop, Fashion-MNIST:   apt-get install dataset-fashion-mnist
                           python jobs/resnet_imagenet.py --preset fashion --num-workers 0
A laptop, CIFAR-10:        python jobs/resnet_imagenet.py --preset cifar10 --data FOLDER

The same arguments with the same --name continue a run that was stopped. On a cluster:
ray job submit -- python jobs/resnet_imagenet.py ...
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ray_autolrs.cluster.job import add_common_arguments, config_from, run_job
from ray_autolrs.workloads.images.in_memory import FASHION_DEBIAN_FOLDER
from ray_autolrs.workloads.images.task import PRESETS

DEFAULT_FOLDERS = {"fashion": FASHION_DEBIAN_FOLDER}


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="imagenet",
        help="network, data and the search's settings (default: imagenet)",
    )
    parser.add_argument(
        "--data",
        help="imagenet: a folder with train/ and val/, images by class; cifar10: the folder that "
        "holds cifar-10-batches-py; fashion: the folder of its idx files "
        f"(default: {FASHION_DEBIAN_FOLDER})",
    )
    add_common_arguments(parser, name="resnet")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    data = arguments.data or DEFAULT_FOLDERS.get(arguments.preset)
    if data is None:
        parser.error(f"--preset {arguments.preset} needs --data")
    preset = PRESETS[arguments.preset]
    try:
        config = config_from(arguments, preset.config)
        task = preset.task(folder=str(Path(data).absolute()))
        task.check_data()
    except ValueError as error:
        parser.error(str(error))
    return run_job(task, config, arguments, say=print, test=task.test)


if __name__ == "__main__":
    main()
