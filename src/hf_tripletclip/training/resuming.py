# SPDX-License-Identifier: Apache-2.0
"""A `Trainer` whose resumed runs walk the curve of one that was not interrupted, or are refused."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from transformers.utils import logging

from hf_tripletclip.layouts.adapters import load_logit_scale
from hf_tripletclip.modeling.decoder_input import load_decoder_input, save_decoder_input
from hf_tripletclip.training.agreement import agree_on_checkpoint, output_held
from hf_tripletclip.training.benchmarks import check_retention_metric
from hf_tripletclip.training.checkpoint_errors import UNWRITABLE, CheckpointNotWritten, reading_of
from hf_tripletclip.training.checkpointing import (
    as_flag,
    checkpoints_of,
    damage,
    mark_complete,
    require_optimizer,
    rotate,
    set_aside_later,
    step_of,
    unmark,
)
from hf_tripletclip.training.evaluation import compositional_metrics
from hf_tripletclip.training.neighbours import NeighbourTrainer
from hf_tripletclip.training.retention import StopAtRetentionLoss
from hf_tripletclip.training.settings import FIXED, OF_ORDER, Course, differences, refusal, settings_of
from hf_tripletclip.utils.writing import as_os_error

logger = logging.get_logger(__name__)


class TrainingStoppedError(ValueError):
    """Training cannot go on: it has diverged, or the data has no usable rows. Nothing of that is saved."""


class _PassEnd(TrainerCallback):
    """Tells a checkpoint of the end of a pass from one inside it."""

    ended = False

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.ended = False

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended = True


class ResumingTrainer(NeighbourTrainer):
    """
    A [`~transformers.Trainer`] that holds its output folder, resumes exactly or says why not, and keeps its last
    whole checkpoint whatever happens to the next one.

    Attributes:
        run_settings (`dict`): Settings of the script around it, which a resumed run must share.
        changes (`list`): Settings that changed on the way, see [`~hf_tripletclip.training.settings.Course`].
    """

    teacher: Any
    benchmarks: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.run_settings: dict[str, Any] = {}
        self.changes: list[dict[str, Any]] = []
        self._settings: dict[str, Any] | None = None  # on the main process
        self._resumed: tuple[str, Course | None] | None = None  # a checkpoint that was checked, and its course
        self._same_order = True  # as the run of the checkpoint read its rows
        self._pass_number, self._batches_done = 0, 0  # where in the data: which pass, and how many batches of it
        self._over: Any = None  # the iterator of a pass that has no more batches
        self._pass_end = _PassEnd()
        self._writing: list[Exception] | None = None  # what went wrong with the checkpoint that is being written
        self.add_callback(self._pass_end)

    # ---- Before training ----

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> Any:
        """
        Train, see [`~transformers.Trainer.train`].

        Raises:
            AlreadyTraining: Another run trains in the output folder.
            ValueError: The checkpoint is damaged, or of a run with other settings; there is none; or the processes do
                not see the same.
        """
        with output_held(self.args):
            checkpoint = agree_on_checkpoint(resume_from_checkpoint, self.args)
            if checkpoint is None and as_flag(resume_from_checkpoint):
                raise ValueError(f"{self.args.output_dir} has no complete checkpoint to resume from.")
            self.check_best_metric()
            self.check_resumable(checkpoint)
            if checkpoint is not None and self.is_world_process_zero():
                moved = set_aside_later(str(self.args.output_dir), checkpoint)
                if moved is not None:
                    step = step_of(checkpoint)
                    later = all(int(path.name.rpartition("-")[2]) > step for path in moved.iterdir())
                    which = f"made after step {step}" if later else f"in {self.args.output_dir} before this run"
                    logger.warning(f"The checkpoints that were {which} are now in {moved}.")
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def check_resumable(self, checkpoint: str | None) -> None:
        """
        Check that this run is that of a checkpoint. All processes call it, before they train.

        Args:
            checkpoint (`str`, *optional*): The checkpoint; `None` for a run from the start.

        Raises:
            ValueError: It is not: its settings differ, or it lacks its optimizer.
        """
        main = self.args.process_index == 0
        if checkpoint is None:
            self._resumed, self.changes, self._same_order = None, [], True
            self._settings = settings_of(self) if main else None
            return
        if self._resumed is not None and self._resumed[0] == checkpoint:
            return
        outcome: list[Any] = [None]
        if main:
            try:
                outcome = [self._compare(checkpoint)]
            except (OSError, ValueError) as error:
                outcome = [error]
        outcome = broadcast_object_list(outcome)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        course, self.changes, self._same_order = outcome[0]
        self._resumed = (checkpoint, course)

    def check_best_metric(self) -> None:
        """
        Raise `ValueError` where no evaluation gives `metric_for_best_model`. A `compute_metrics` of one's own gives
        what it gives.
        """
        metric, compute = self.args.metric_for_best_model, getattr(self.compute_metrics, "args", ())
        if metric is None or self.args.eval_strategy == "no" or compositional_metrics not in compute:
            return
        name = metric.removeprefix("eval_")
        if isinstance(self.eval_dataset, dict):  # its metrics have the dataset's name before them
            key = next((key for key in self.eval_dataset if name.startswith(f"{key}_")), None)
            name = name if key is None else name.removeprefix(f"{key}_")
        given: Any = (self.benchmarks, self.core, self.processing_class)
        check_retention_metric(name, *given, flag="metric_for_best_model", further=("loss", "tie_rate"))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:  # its rows have no such negatives, or a `compute_metrics` does not give it
            names = ", ".join(name for name, value in metrics.items() if isinstance(value, float))
            raise TrainingStoppedError(
                f"`metric_for_best_model` is {self.args.metric_for_best_model!r}, which the evaluation did not give; "
                f"there are {names}."
            ) from error

    def _compare(self, checkpoint: str) -> tuple[Course | None, list[dict[str, Any]], bool]:
        require_optimizer(checkpoint)
        step = step_of(checkpoint)
        self._settings = settings_of(self)
        course = Course.load(checkpoint)
        if course is None:
            logger.warning(
                f"{checkpoint} does not tell its settings: whether they are those of this run is not known."
            )
            return None, [], True
        found, told = differences(course.settings, self._settings)
        if found and (not self.args.allow_changed_settings or any(one.name in FIXED for one in found)):
            raise ValueError(refusal(checkpoint, found))
        changes = list(course.changes)
        if found or told:
            changes.append({"step": step, "changes": [str(one) for one in [*found, *told]]})
            logger.warning(f"Going on from {checkpoint} with other settings: {'; '.join(changes[-1]['changes'])}.")
        return course, changes, not any(one.name in OF_ORDER for one in found)

    # ---- Where a resumed run goes on ----

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        with reading_of(resume_from_checkpoint):
            epochs, batches = super()._init_training_state(
                max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
            )
        if resume_from_checkpoint is None:
            return epochs, batches
        self.state.compute_steps(self.args, max_steps)  # the intervals are those of this run
        self._restore_callbacks(resume_from_checkpoint)
        self._find_best_checkpoint()
        course = self._resumed[1] if self._resumed is not None else None
        stream = not has_length(self.train_dataset)
        if course is None or not course.position:
            if stream and not self.args.ignore_data_skip:
                raise ValueError(
                    f"{resume_from_checkpoint} does not tell where in the stream it stopped: rows would come twice, "
                    "and others not at all. `--ignore_data_skip` begins the stream again; or start another run."
                )
            return epochs, batches
        if not self._same_order and not stream:  # passes have other lengths: by the number of steps
            return epochs, batches
        if self.args.ignore_data_skip or not self._same_order:
            return int(course.position["pass"]), 0
        return int(course.position["pass"]), int(course.position["batches"])

    def _restore_callbacks(self, checkpoint: str) -> None:
        """What callbacks have counted, such as evaluations without an improvement."""
        saved: dict[str, Any] = cast(Any, self.state.stateful_callbacks)
        for callback in [*self.callback_handler.callbacks, self.control]:
            if not isinstance(callback, ExportableState):
                continue
            name = type(callback).__name__
            data = saved.setdefault(name, callback.state())  # `Trainer` could not save one that is new
            if isinstance(callback, StopAtRetentionLoss):
                callback.checkpoint = checkpoint  # and restores itself
            elif not isinstance(callback, TrainerControl):
                data = data[0] if isinstance(data, list) else data
                for attribute, value in data.get("attributes", {}).items():
                    setattr(callback, attribute, value)

    def _find_best_checkpoint(self) -> None:
        """The best checkpoint where the folder has been moved, or was named otherwise."""
        best = self.state.best_global_step
        here = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{best}"
        if best and self.state.best_model_checkpoint is None and here.is_dir():
            self.state.best_model_checkpoint = str(here)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        # `eval_on_start` means the start of the run: a resumed one has evaluated at its step, if it was to.
        if skip_scheduler and self.state.global_step > 0:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:  # type: ignore[override]
        # `Trainer` looks at `max_steps` and at what callbacks say after a step only: resumed from its last checkpoint,
        # or stopped by the evaluation before the first step, it would train one more.
        stopped = any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )
        if self.control.should_training_stop or stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        checkpoint = kwargs["resume_from_checkpoint"]
        resumed = checkpoint is not None and epoch == kwargs["epochs_trained"]
        self._pass_number, self._over = epoch, None
        self._batches_done = kwargs["steps_trained_in_current_epoch"] if resumed else 0
        if resumed and has_length(train_dataloader) and self._batches_done >= kwargs["steps_in_epoch"] > 0:
            # After the last step of a pass and before its end, where others evaluate, log or save.
            self._load_rng_state(checkpoint)
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            given = (self._tr_loss, None, kwargs["model"], kwargs["trial"], epoch)
            self._maybe_log_save_evaluate(*given, kwargs["ignore_keys_for_eval"], kwargs["start_time"])
            return
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        args, dataset = self.args, self.train_dataset
        if not isinstance(dataset, torch.utils.data.IterableDataset) or not args.dataloader_drop_last:
            return super().get_train_dataloader()
        # `Trainer` hands `dataloader_drop_last` on for datasets with a length only.
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=self._train_batch_size,
            collate_fn=self._get_collator_with_removed_columns(self.data_collator, description="training"),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
            drop_last=True,
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """
        The batches of the next step. Of a stream, whose length nobody knows, a pass ends for all processes once the
        first of them has no whole step left: others would wait for it for ever. What the others have left is for
        another pass.
        """
        if epoch_iterator is self._over:
            return [], None
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not has_length(self.train_dataset):
            counts = [len(batches)]
            if self.args.world_size > 1:
                counts = self.accelerator.gather(torch.tensor(counts, device=self.args.device)).tolist()
            if min(counts) < num_batches:
                self._over = epoch_iterator
                self.control.should_epoch_stop = True  # else `Trainer` asks once more for each step up to `max_steps`
                self._tell_end(num_batches, counts)
                return [], None
        self._batches_done += len(batches)
        return batches, items

    def _tell_end(self, num_batches: int, counts: list[int]) -> None:
        if self._batches_done == 0:
            part = "each process's part of the stream" if len(counts) > 1 else "the stream"
            step = f"{num_batches} batches" if num_batches > 1 else "a batch"
            raise TrainingStoppedError(
                f"There are too few rows for a single step: {part} must have at least {step} of "
                f"{self.args.train_batch_size}. Lower `per_device_train_batch_size`, use fewer processes, or read the "
                "dataset without `--streaming`."
            )
        if min(counts) < max(counts) and self.is_world_process_zero():
            logger.warning(
                f"Pass {self._pass_number + 1} of the stream ends after {self._batches_done} batches of each process: "
                f"process {counts.index(min(counts))} has no more rows while others do, for its files have fewer. The "
                "next pass deals the files out anew. With as many in each, or without `--streaming`, none is left."
            )

    # ---- Reading a checkpoint ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with reading_of(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            load_logit_scale(self.accelerator.unwrap_model(model or self.model), resume_from_checkpoint)
            if self.teacher is not None:
                self.teacher.load(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading_of(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            load_decoder_input(self.core, checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with reading_of(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading_of(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        # One of a run of this package; whether process 0 reads it as it was written holds for all.
        wrong = broadcast_object_list([damage(best) if self.args.process_index == 0 else None])[0]
        if wrong is not None:
            logger.warning(f"The best checkpoint, {best}, is damaged: {wrong}. The model of the last step is kept.")
            return
        with reading_of(best):
            super()._load_best_model()
            load_logit_scale(self.accelerator.unwrap_model(self.model), best)

    # ---- Writing a checkpoint ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self._attempt():
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._attempt():
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_scaler(self, output_dir: str) -> None:
        with self._attempt():
            super()._save_scaler(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        with self._attempt():
            super()._save_rng_state(output_dir)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._writing:  # what is not whole is not uploaded
            super()._push_from_checkpoint(checkpoint_folder)

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[None]:
        """
        Inside a checkpoint, keep an error for its end: other processes wait in the middle of it for this one.
        """
        try:
            yield
        except Exception as error:
            of_system = as_os_error(error)
            if self._writing is not None and (of_system or isinstance(error, UNWRITABLE)):
                self._writing.append(of_system or error)
            elif of_system is not None or isinstance(error, SafetensorError):
                raise OSError(f"The model could not be written: {of_system or error}") from error
            else:
                raise

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = self._get_output_dir(trial=trial)
        checkpoint = f"{run_dir}/{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            unmark(checkpoint)
        # Old checkpoints go only once the new one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._writing = []
        try:
            with self._attempt():
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save and not self._writing:
                with self._attempt():
                    self._finish(checkpoint)
            errors = self._writing
        finally:
            self.args.save_total_limit, self._writing = limit, None
        self._raise_together(checkpoint, errors)
        if self.args.should_save:
            rotate(checkpoint, limit, self.state.best_model_checkpoint)

    def _finish(self, checkpoint: str) -> None:
        """What this package knows of the run, then the marker."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, StopAtRetentionLoss):
                callback.save(checkpoint, self.state.global_step)
        if self.teacher is not None:
            self.teacher.save(checkpoint)
        save_decoder_input(self.core, checkpoint)
        Course(self._settings or {}, self._position(), self.changes).save(checkpoint)
        mark_complete(checkpoint)

    def _position(self) -> dict[str, Any]:
        loader: Any = self.callback_handler.train_dataloader
        whole = has_length(self.train_dataset) and self._batches_done >= len(loader)
        if self._pass_end.ended and (whole or self._over is not None):
            return {"pass": self._pass_number + 1, "batches": 0}
        return {"pass": self._pass_number, "batches": self._batches_done}

    def _raise_together(self, checkpoint: str, errors: list[Exception]) -> None:
        told = [f"{type(errors[0]).__name__}: {errors[0]}" if errors else None]
        found = gather_object(told) if self.args.world_size > 1 else told
        failed = [index for index, one in enumerate(found) if one]
        if not failed:
            return
        last = None
        if self.args.should_save:
            shutil.rmtree(checkpoint, ignore_errors=True)
            last = next(
                (path for path in reversed(checkpoints_of(Path(checkpoint).parent)) if damage(path) is None), None
            )
        self.accelerator.wait_for_everyone()
        last = broadcast_object_list([last])[0]
        reason = str(found[failed[0]]).splitlines()[0]
        who = f" by process {failed[0]}" if self.args.world_size > 1 else ""
        with contextlib.suppress(OSError):
            reason += f" ({shutil.disk_usage(Path(checkpoint).parent).free / 1e6:,.0f} MB are free there)"
        raise CheckpointNotWritten(
            f"{checkpoint} could not be written{who}, and what there was of it is removed: {reason}. "
            + (f"The last whole checkpoint is {last}: make room, then resume." if last else "There is no other yet.")
        ) from (errors[0] if errors else None)
