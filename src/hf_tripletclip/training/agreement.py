# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run agree on before they train: that they hold the output folder, and where they go on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from transformers.utils import logging

from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.checkpointing import as_flag, damage, resolve_checkpoint, visible
from hf_tripletclip.training.lock import AlreadyTraining, holder, training_lock

logger = logging.get_logger(__name__)


@contextlib.contextmanager
def output_held(args: TripletCLIPTrainingArguments) -> Iterator[None]:
    """
    Hold the output folder for a run of several processes, which all call this.

    Raises:
        AlreadyTraining: In all of them, where another run holds it.
        OSError: In all of them, where the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        outcome: list[Any] = [None]
        if args.process_index == 0:
            try:
                os.makedirs(str(args.output_dir), exist_ok=True)
                stack.enter_context(training_lock(str(args.output_dir)))
                outcome = [(holder(str(args.output_dir)) or {}).get("run")]
            except OSError as error:
                outcome = [error if isinstance(error, AlreadyTraining) else OSError(str(error))]
        outcome = broadcast_object_list(outcome)
        if isinstance(outcome[0], OSError):
            raise outcome[0]
        _warn_where_not_shared(args, outcome[0])
        yield


def _warn_where_not_shared(args: TripletCLIPTrainingArguments, run: str | None) -> None:
    if args.world_size == 1 or args.save_on_each_node:
        return
    sees = (holder(str(args.output_dir)) or {}).get("run") == run
    places = gather_object([None if sees else f"process {args.process_index} on {socket.gethostname()}"])
    if args.process_index == 0 and (blind := [place for place in places if place]):
        logger.warning(
            f"{', '.join(blind)} does not see what process 0 writes into {args.output_dir}: `output_dir` must be a "
            "folder that all machines share, or its checkpoints cannot be resumed."
        )


def agree_on_checkpoint(resume: str | bool | None, args: TripletCLIPTrainingArguments) -> str | None:
    """
    The checkpoint that all processes go on from, see [`~hf_tripletclip.training.checkpointing.resolve_checkpoint`].

    Raises:
        FileNotFoundError, ValueError: As there; and where the processes do not see the same checkpoints.
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
    outcome: list[Any] = [None]
    if args.process_index == 0:
        try:
            outcome = [resolve_checkpoint(resume, output_dir)]
        except (OSError, ValueError) as error:
            outcome = [error]
    found = broadcast_object_list(outcome)[0]
    if isinstance(found, Exception):
        raise found
    if found is None or args.world_size == 1:
        return found
    # A copy on another machine may be damaged where the first is not.
    reads = args.local_process_index == 0 and args.process_index > 0
    wrong = damage(found) if reads and "no marker" not in visible(found, output_dir).values() else None
    told = gather_object([wrong and f"on process {args.process_index}, {socket.gethostname()}: {wrong}"])
    if any(told):
        raise ValueError(f"{found} is not whole everywhere: {'; '.join(filter(None, told))}.")
    return found


def _listed(seen: Mapping[str, str]) -> str:
    return ", ".join(seen) if seen else "none"
