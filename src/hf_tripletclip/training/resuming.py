# SPDX-License-Identifier: Apache-2.0
"""Resumed runs continue the loss curve of a run that was not interrupted, or they are refused."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from transformers.utils import logging

from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.callbacks import StopAtRetentionLoss
from hf_tripletclip.training.checkpointing import (
    as_flag,
    damage,
    require_optimizer,
    resolve_checkpoint,
    set_aside_later,
    step_of,
    visible,
)
from hf_tripletclip.training.resume_settings import FIXED, OF_ORDER, Course, differences, refusal, settings_of
from hf_tripletclip.training.steps import TrainingStoppedError
from hf_tripletclip.utils.processes import from_first_process

logger = logging.get_logger(__name__)


# ---- Before training: which checkpoint, and is it of this run? ----


def agree_on_checkpoint(resume: str | bool | None, args: TripletCLIPTrainingArguments) -> str | None:
    """
    The checkpoint that all processes go on from, see [`~hf_tripletclip.training.checkpointing.resolve_checkpoint`].
    All processes call this.

    Raises:
        FileNotFoundError, ValueError: As there; and if the processes do not see the same checkpoints.
    """
    output_dir = str(args.output_dir)
    if as_flag(resume) in (None, False, ""):
        return None
    if args.world_size > 1:
        mine = visible(resume, output_dir)
        if args.save_on_each_node:  # each has files of its own
            mine = dict.fromkeys(mine, "")
        seen = gather_object([(args.process_index, socket.gethostname(), mine)])
        _, _, of_first = seen[0]
        for index, host, there in seen:
            if there != of_first:
                raise ValueError(
                    f"The processes do not see the same checkpoints: process 0 on {seen[0][1]} sees "
                    f"{_listed(of_first)}, process {index} on {host} sees {_listed(there)}. `output_dir` must be a "
                    "folder that all machines share: nothing was trained."
                )
    checkpoint = from_first_process(lambda: resolve_checkpoint(resume, output_dir))
    if checkpoint is None or args.world_size == 1:
        return checkpoint
    # The copy on another machine may be damaged although that of the first is not.
    reads = args.local_process_index == 0 and args.process_index > 0
    wrong = damage(checkpoint) if reads and "no marker" not in visible(checkpoint, output_dir).values() else None
    told = gather_object([wrong and f"on process {args.process_index}, {socket.gethostname()}: {wrong}"])
    if any(told):
        raise ValueError(f"{checkpoint} is not whole everywhere: {'; '.join(filter(None, told))}.")
    return checkpoint


def _listed(seen: Mapping[str, str]) -> str:
    return ", ".join(seen) if seen else "none"


def set_others_aside(checkpoint: str, output_dir: str) -> None:
    """Move the checkpoints of a run's folder that it does not go on from into a subfolder, with a warning."""
    moved = set_aside_later(output_dir, checkpoint)
    if moved is None:
        return
    step = step_of(checkpoint)
    later = all(int(path.name.rpartition("-")[2]) > step for path in moved.iterdir())
    which = f"made after step {step}" if later else f"in {output_dir} before this run"
    logger.warning(f"The checkpoints that were {which} are now in {moved}.")


class Resumption:
    """
    Whether a run is the one that a checkpoint was written by, and where in the data it goes on.

    Args:
        trainer ([`TripletCLIPTrainer`]): The trainer of the run.

    Attributes:
        settings (`dict`, *optional*): What determines this run's course, on the main process.
        changes (`list[dict]`): Settings that changed on the way, see
            [`~hf_tripletclip.training.resume_settings.Course`].
        course (`Course`, *optional*): What the checkpoint tells of its run.
        same_order (`bool`): Whether this run reads its rows in the order of the checkpoint's.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.settings: dict[str, Any] | None = None
        self.changes: list[dict[str, Any]] = []
        self.course: Course | None = None
        self.same_order = True
        self._checked: str | None = None  # the checkpoint

    def check(self, checkpoint: str | None) -> None:
        """
        Check that a run may go on from a checkpoint. All processes call this before they train.

        Args:
            checkpoint (`str`, *optional*): The checkpoint; `None` for a run from the start.

        Raises:
            ValueError: Its settings differ from the run's, or it has no optimizer.
        """
        if checkpoint is not None and checkpoint == self._checked:
            return
        if checkpoint is None:
            self.settings = settings_of(self.trainer) if self.trainer.args.process_index == 0 else None
            self.course, self.changes, self.same_order, self._checked = None, [], True, None
            return
        self.course, self.changes, self.same_order = from_first_process(lambda: self.compare(checkpoint))
        self._checked = checkpoint

    def compare(self, checkpoint: str) -> tuple[Course | None, list[dict[str, Any]], bool]:
        """
        Compare a checkpoint's settings with those of the run.

        Returns:
            What the checkpoint tells, the changes of settings so far, and whether rows come in the same order.

        Raises:
            ValueError: The run may not go on from it.
        """
        require_optimizer(checkpoint)
        step = step_of(checkpoint)
        self.settings = settings_of(self.trainer)
        course = Course.load(checkpoint)
        if course is None:
            logger.warning(
                f"{checkpoint} does not tell its settings: whether they are those of this run is not known."
            )
            return None, [], True
        found, allowed = differences(course.settings, self.settings)
        if found and (not self.trainer.args.allow_changed_settings or any(one.name in FIXED for one in found)):
            raise ValueError(refusal(checkpoint, found))
        changes = list(course.changes)
        if found or allowed:
            changes.append({"step": step, "changes": [str(one) for one in [*found, *allowed]]})
            logger.warning(f"Going on from {checkpoint} with other settings: {'; '.join(changes[-1]['changes'])}.")
        return course, changes, not any(one.name in OF_ORDER for one in found)

    def start(self, checkpoint: str, by_steps: tuple[int, int]) -> tuple[int, int]:
        """
        Where in the data a run goes on.

        Args:
            checkpoint (`str`): What it goes on from.
            by_steps (`tuple[int, int]`): What `Trainer` computes from the number of steps.

        Returns:
            `tuple[int, int]`: The pass, from 0, and how many batches of it are done.

        Raises:
            ValueError: The data is a stream, and the checkpoint does not tell.
        """
        args, stream = self.trainer.args, not has_length(self.trainer.train_dataset)
        if self.course is None or not self.course.position:
            if stream and not args.ignore_data_skip:
                raise ValueError(
                    f"{checkpoint} does not tell where in the stream it stopped: rows would come twice, "
                    "and others not at all. `--ignore_data_skip` begins the stream again; or start another run."
                )
            return by_steps
        if not self.same_order and not stream:  # its passes have another length
            return by_steps
        number = int(self.course.position["pass"])
        begins_again = args.ignore_data_skip or not self.same_order
        return number, 0 if begins_again else int(self.course.position["batches"])


# ---- While training: where in the data ----


class DataPosition(TrainerCallback):
    """
    Where in the training data a run is, for its checkpoints: in which pass, and after how many batches of it.

    Args:
        trainer ([`TripletCLIPTrainer`]): The trainer of the run.

    Attributes:
        number (`int`): The pass, from 0.
        batches (`int`): How many batches of it this process has taken.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.number, self.batches = 0, 0
        self._exhausted: Any = None  # the iterator of a pass whose batches are used up
        self._pass_ended = False  # tells a checkpoint of the end of a pass from one inside it

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._pass_ended = False

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self._pass_ended = True

    def begin_pass(self, number: int, batches: int) -> None:
        """Begin a pass, or go on inside one after `batches` batches."""
        self.number, self.batches, self._exhausted = number, batches, None

    def is_over(self, epoch_iterator: Any) -> bool:
        """Whether the pass that an iterator is of has ended for all processes."""
        return epoch_iterator is self._exhausted

    def advance(self, epoch_iterator: Any, batches: list[Any], num_batches: int) -> list[Any]:
        """
        Count the batches of a step, or end the pass. All processes call this.

        Nobody knows the length of a stream. Its pass ends for all processes once one of them has not enough batches
        for a step: the others would wait for it for ever. The batches that others have left come in another pass.

        Returns:
            `list`: The batches; none if the pass ends.

        Raises:
            TrainingStoppedError: The stream has too few rows for a single step.
        """
        trainer = self.trainer
        if not has_length(trainer.train_dataset):
            counts = [len(batches)]
            if trainer.args.world_size > 1:
                counts = trainer.accelerator.gather(torch.tensor(counts, device=trainer.args.device)).tolist()
            if min(counts) < num_batches:
                self._exhausted = epoch_iterator
                # Without this `Trainer` asks once more for each step up to `max_steps`.
                trainer.control.should_epoch_stop = True
                self._report_end(num_batches, counts)
                return []
        self.batches += len(batches)
        return batches

    def _report_end(self, num_batches: int, counts: list[int]) -> None:
        args = self.trainer.args
        if self.batches == 0:
            part = "each process's part of the stream" if len(counts) > 1 else "the stream"
            step = f"{num_batches} batches" if num_batches > 1 else "a batch"
            raise TrainingStoppedError(
                f"There are too few rows for a single step: {part} must have at least {step} of "
                f"{args.train_batch_size}. Lower `per_device_train_batch_size`, use fewer processes, or read the "
                "dataset without `--streaming`."
            )
        if min(counts) < max(counts) and self.trainer.is_world_process_zero():
            logger.warning(
                f"Pass {self.number + 1} of the stream ends after {self.batches} batches of each process: process "
                f"{counts.index(min(counts))} has no more rows but others do, because its files have fewer. The next "
                "pass deals the files out anew. With as many rows in each file, or without `--streaming`, none is "
                "left over."
            )

    def as_saved(self) -> dict[str, int]:
        """The position that a checkpoint keeps: `pass`, from 0, and `batches` of it."""
        loader: Any = self.trainer.callback_handler.train_dataloader
        whole = has_length(self.trainer.train_dataset) and self.batches >= len(loader)
        if self._pass_ended and (whole or self._exhausted is not None):
            return {"pass": self.number + 1, "batches": 0}
        return {"pass": self.number, "batches": self.batches}


def takes_no_more_steps(trainer: Any) -> bool:
    """
    Whether a run is at its end before a pass begins. `Trainer` looks at `max_steps` and at what callbacks ask for only
    after a step: a run that is resumed from its last checkpoint, or that the evaluation before the first step stops,
    would train one step more.
    """
    out_of_patience = any(
        callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in trainer.callback_handler.callbacks
        if isinstance(callback, EarlyStoppingCallback)
    )
    return (
        trainer.control.should_training_stop or out_of_patience or trainer.state.global_step >= trainer.state.max_steps
    )


# ---- The state of the trainer itself ----


def restore_callbacks(trainer: Any, checkpoint: str) -> None:
    """Restore what callbacks have counted, such as evaluations without an improvement."""
    saved: dict[str, Any] = trainer.state.stateful_callbacks
    for callback in [*trainer.callback_handler.callbacks, trainer.control]:
        if not isinstance(callback, ExportableState):
            continue
        name = type(callback).__name__
        data = saved.setdefault(name, callback.state())  # `Trainer` could not save a new callback
        if isinstance(callback, StopAtRetentionLoss):
            callback.checkpoint = checkpoint  # and restores itself
        elif not isinstance(callback, TrainerControl):
            data = data[0] if isinstance(data, list) else data
            for attribute, value in data.get("attributes", {}).items():
                setattr(callback, attribute, value)


def find_best_checkpoint(trainer: Any) -> None:
    """Find the best checkpoint again if the folder was moved or renamed."""
    best = trainer.state.best_global_step
    here = Path(str(trainer.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{best}"
    if best and trainer.state.best_model_checkpoint is None and here.is_dir():
        trainer.state.best_model_checkpoint = str(here)
