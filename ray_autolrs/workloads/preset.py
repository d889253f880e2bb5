"""What a job offers by name: a task without its data, and how to search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask

Task = TypeVar("Task", bound=TrainingTask)


@dataclass(frozen=True, kw_only=True)
class Preset(Generic[Task]):
    """A task of known size.

    Attributes:
        task: builds the task, called with what tells where its data lies.
        config: the search's settings.
    """

    task: partial[Task]
    config: AutoLRSConfig


@dataclass(frozen=True, kw_only=True)
class TextPreset(Preset[Task]):
    """A task on text.

    Attributes:
        vocab_size: tokens of the vocabulary to train, where none is given.
    """

    vocab_size: int
