# SPDX-License-Identifier: Apache-2.0
"""How a trainer's model gets to the Hub: what `push_model` uploads, and no more."""

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

from huggingface_hub import CommitInfo
from transformers import Trainer
from transformers.trainer import PushInProgress
from transformers.trainer_utils import HubStrategy, SaveStrategy, unwrap_peft_model
from transformers.utils import logging

from hf_tripletclip.hub.model_push import upload_model
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.modeling import TripletCLIPModel
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.record import write_trainer_card
from hf_tripletclip.utils.redact import redact

logger = logging.get_logger(__name__)

NOT_THE_MODEL = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "training_args.bin", "global_step*")


class PushingTrainer(Trainer):
    """
    A [`~transformers.Trainer`] whose uploads hold the model, its processor, its card and what was measured: `Trainer`
    uploads all that lies in the output folder, its pickled arguments too.
    """

    args: TripletCLIPTrainingArguments
    hub_model_id: Any
    push_in_progress: Any
    overlap: list[str] | None = None  # what of the evaluation was trained on, once that was looked up
    changes: list[dict[str, Any]]  # of settings, see `ResumingTrainer`

    @property
    def core(self) -> TripletCLIPModel:
        """The TripletCLIP model inside the wrappers of `accelerate` and `peft`."""
        return unwrap_peft_model(self.accelerator.unwrap_model(self.model))

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        Make the repository `hub_model_id`, or that of the output folder's name, where it does not exist.

        Raises:
            ValueError: It is no id.
            OSError: The Hub cannot be reached or refuses it.
        """
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).resolve().name
        destination = self._destination(name, token, private)
        destination.prepare()
        self.hub_model_id = destination.repo_id
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Any:
        """
        Save the model and upload it by [`~hf_tripletclip.push_model`], with a card. All processes call it.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Of the commit.
            blocking (`bool`, defaults to `True`): Whether to wait for the upload.
            token (`str`, *optional*): Of the Hub; `hub_token` by default.
            revision (`str`, *optional*): The branch to upload to, made where it does not exist; `hub_revision` by
                default.
            private (`bool`, *optional*): Whether a repository that is made is private; `hub_private_repo` by default.
            kwargs: Of `create_model_card`.

        Returns:
            `huggingface_hub.CommitInfo`, or a `Future` of it where `blocking` is `False`; `None` in other processes
            than the main one.

        Raises:
            ValueError: The base of an adapter is not on the Hub (`hub_base_model` names where it is).
            OSError: The Hub cannot be reached or refuses it.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        tags = kwargs.pop("tags", None) or []
        tags = [tags] if isinstance(tags, str) else list(tags)
        kwargs["tags"] = list(dict.fromkeys([*tags, *(getattr(self.model, "model_tags", None) or ())]))
        self.create_model_card(**kwargs)
        self._finish_current_push()
        destination = self._destination(str(self.hub_model_id), token, private, revision)
        return self._upload(str(self.args.output_dir), destination, commit_message, blocking=blocking)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Write the model's card into the output folder, as `push_to_hub` does: how it is opened, the objective with its
        equation, the hyperparameters, and what was measured. A card that somebody wrote stays.

        Args:
            language, tasks, dataset_args: Not used: a CLIP has one task, and captions say their language.
            license (`str`, *optional*): Of the weights, an identifier of the Hub.
            tags (`str` or `list[str]`, *optional*): Further tags.
            model_name (`str`, *optional*): Defaults to the name of the repository, or of the output folder.
            finetuned_from (`str`, *optional*): Defaults to what the model was loaded from.
            dataset_tags (`str` or `list[str]`, *optional*): The dataset's id on the Hub.
            dataset (`str` or `list[str]`, *optional*): What it is called, where it is not there.
        """
        if not self.is_world_process_zero():
            return
        names = dataset_tags or dataset or None
        write_trainer_card(
            self,
            license=license,
            tags=[tags] if isinstance(tags, str) else tags or [],
            name=model_name,
            base_model=finetuned_from,
            dataset=names if isinstance(names, str) or names is None else names[0],
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload what a checkpoint holds of the model, while training goes on."""
        args, busy = self.args, self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if busy and not args.hub_always_push:
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        by_steps = args.save_strategy == SaveStrategy.STEPS
        when = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        message = f"Training in progress, {when}"
        destination = self._destination(str(self.hub_model_id))
        # The checkpoint may be deleted before the upload has read it.
        kept = tempfile.mkdtemp(prefix="_push-", dir=str(args.output_dir))
        ignored = shutil.ignore_patterns(*NOT_THE_MODEL)
        shutil.copytree(checkpoint_folder, kept, ignore=ignored, copy_function=_link, dirs_exist_ok=True)
        jobs: Any = [self._upload(kept, destination, message, blocking=False)]
        jobs[0].add_done_callback(lambda _: shutil.rmtree(kept, ignore_errors=True))
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = args.hub_strategy == HubStrategy.CHECKPOINT
            jobs.append(
                destination.api.run_as_future(
                    destination.send,
                    Path(checkpoint_folder),
                    f"{message}, checkpoint",
                    path_in_repo="last-checkpoint" if last else Path(checkpoint_folder).name,
                )
            )
        for job in jobs:
            job.add_done_callback(functools.partial(_tell_failure, message, destination))
        if busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def _destination(
        self, name: str, token: str | None = None, private: bool | None = None, revision: str | None = None
    ) -> Destination:
        args = self.args
        return Destination(
            name,
            private=args.hub_private_repo if private is None else private,
            revision=revision or args.hub_revision,
            token=token or args.hub_token,
        )

    def _upload(self, folder: str, destination: Destination, message: str | None, *, blocking: bool) -> Any:
        run: Any = upload_model if blocking else destination.api.run_as_future
        given = (folder, destination) if blocking else (upload_model, folder, destination)
        return run(*given, base_model=self.args.hub_base_model, commit_message=message)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with _tokens_not_pickled(self.args):
            super()._save(output_dir, state_dict)


def _tell_failure(message: str, destination: Destination, job: Future[Any]) -> None:
    """Training goes on where an upload fails; the one at its end raises."""
    if (error := job.exception()) is not None:
        logger.warning(f"{message}: it was not uploaded. {redact(str(error), *destination.tokens)}")


def _link(source: str, target: str) -> None:
    """A second name of a file, or a copy where the disk has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class _UnsavedToken(str):
    """A token that can be used, and is pickled as `None`."""

    def __reduce__(self) -> Any:
        return type(None), ()


@contextlib.contextmanager
def _tokens_not_pickled(args: TripletCLIPTrainingArguments) -> Iterator[None]:
    """`Trainer` pickles its arguments, `training_args.bin`, beside the model: not the token that they hold."""
    tokens = {name: value for name, value in vars(args).items() if name.endswith("_token") and isinstance(value, str)}
    vars(args).update({name: _UnsavedToken(value) for name, value in tokens.items()})
    try:
        yield
    finally:
        vars(args).update(tokens)
