# SPDX-License-Identifier: Apache-2.0
"""Uploads of a trainer's model: what `push_model` uploads, and no more.

`Trainer` would upload all that lies in the output folder, its pickled arguments too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from transformers.trainer import PushInProgress
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging

from hf_tripletclip.hub.model_push import upload_model
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.utils.redact import redact

logger = logging.get_logger(__name__)

NOT_THE_MODEL = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "training_args.bin", "global_step*")


def destination_of(
    args: TripletCLIPTrainingArguments,
    name: str,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> Destination:
    """The repository `name`; what a call leaves out is taken from the arguments."""
    return Destination(
        name,
        private=args.hub_private_repo if private is None else private,
        revision=revision or args.hub_revision,
        token=token or args.hub_token,
    )


def upload(
    args: TripletCLIPTrainingArguments, folder: str, destination: Destination, message: str | None, *, blocking: bool
) -> Any:
    """Upload the model in a folder: gives a `CommitInfo`, or a `Future` of one if `blocking` is `False`."""
    run: Any = upload_model if blocking else destination.api.run_as_future
    given = (folder, destination) if blocking else (upload_model, folder, destination)
    return run(*given, base_model=args.hub_base_model, commit_message=message)


def push_checkpoint(trainer: Any, checkpoint: str) -> None:
    """
    Upload the model in a checkpoint, and the checkpoint if `hub_strategy` asks for it, while training goes on. An
    upload that fails is reported in the log.

    Args:
        trainer ([`TripletCLIPTrainer`]): On the main process.
        checkpoint (`str`): The checkpoint's folder.
    """
    args = trainer.args
    busy = trainer.push_in_progress is not None and not trainer.push_in_progress.is_done()
    if args.hub_strategy == HubStrategy.END or (busy and not args.hub_always_push):
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    by_steps = args.save_strategy == SaveStrategy.STEPS
    when = f"step {trainer.state.global_step}" if by_steps else f"epoch {int(trainer.state.epoch or 0)}"
    message = f"Training in progress, {when}"
    destination = destination_of(args, str(trainer.hub_model_id))
    # The checkpoint may be deleted before the upload has read it.
    kept = tempfile.mkdtemp(prefix="_push-", dir=str(args.output_dir))
    ignored = shutil.ignore_patterns(*NOT_THE_MODEL)
    shutil.copytree(checkpoint, kept, ignore=ignored, copy_function=link_or_copy, dirs_exist_ok=True)
    jobs: Any = [upload(args, kept, destination, message, blocking=False)]
    jobs[0].add_done_callback(lambda _: shutil.rmtree(kept, ignore_errors=True))
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        last = args.hub_strategy == HubStrategy.CHECKPOINT
        jobs.append(
            destination.api.run_as_future(
                destination.send,
                Path(checkpoint),
                f"{message}, checkpoint",
                path_in_repo="last-checkpoint" if last else Path(checkpoint).name,
            )
        )
    for job in jobs:
        job.add_done_callback(functools.partial(_report_failure, message, destination))
    if busy:
        trainer.push_in_progress.jobs.extend(jobs)
    else:
        trainer.push_in_progress = PushInProgress(jobs)


def _report_failure(message: str, destination: Destination, job: Future[Any]) -> None:
    """Training goes on if an upload fails; only the one at its end raises."""
    if (error := job.exception()) is not None:
        logger.warning(f"{message}: it was not uploaded. {redact(str(error), *destination.tokens)}")


def link_or_copy(source: str, target: str) -> None:
    """Make a second name of a file, or a copy if the disk has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class _UnsavedToken(str):
    """A token that can be used, and is pickled as `None`."""

    def __reduce__(self) -> Any:
        return type(None), ()


@contextlib.contextmanager
def tokens_not_pickled(args: TripletCLIPTrainingArguments) -> Iterator[None]:
    """`Trainer` pickles its arguments, `training_args.bin`, beside the model: the tokens in them are left out."""
    tokens = {name: value for name, value in vars(args).items() if name.endswith("_token") and isinstance(value, str)}
    vars(args).update({name: _UnsavedToken(value) for name, value in tokens.items()})
    try:
        yield
    finally:
        vars(args).update(tokens)
