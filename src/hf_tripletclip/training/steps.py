# SPDX-License-Identifier: Apache-2.0
"""What a step learns from, when training stops, and what the log says of steps."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.utils import logging

from hf_tripletclip.evaluation.encoder import evaluation_mode
from hf_tripletclip.training.checkpointing import last_complete_checkpoint
from hf_tripletclip.training.gradcache import cached_backward, loss_in_mini_batches, passes_of
from hf_tripletclip.training.training_batches import (
    EVERYONE,
    batch_digests,
    count_repeated,
    model_inputs,
    row_names,
    rows_in,
)

logger = logging.get_logger(__name__)

MAX_BATCHES_WITHOUT_ROWS = 100  # one after the other: then all of the data is taken to be broken
MIN_LOSS_SCALE = 2.0**-10  # of fp16: gradients that are not finite even at this scale come from the model
SHOWN_KEYS = 8


class TrainingStoppedError(ValueError):
    """Training cannot go on: it has diverged, or the data has no usable rows. Nothing of that is saved."""


class Steps:
    """
    The batches of the current step, and what is counted and checked from step to step. All processes do the same: they
    pass over a batch if no process has a usable row of it, and they all stop if a loss or a gradient is not finite on
    one of them.

    Args:
        trainer ([`TripletCLIPTrainer`]): The trainer that takes the steps.

    Attributes:
        batches (`list[dict]`): Batches of the current step that have rows in some process.
        losses (`list[torch.Tensor]`): Their losses so far, scalars.
        parts ([`Means`]): Parts of the loss since the last log.
        batches_without_rows (`int`): How many batches were passed over.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.batches: list[dict[str, Any]] = []
        self.losses: list[torch.Tensor] = []
        self.parts, self.repeated = Means(), Means()
        self.batches_without_rows = 0
        self._last_batch: dict[str, Any] | None = None  # that had rows
        self._since_log = self._empty_since_log = 0  # steps
        self._rows_in_pass = self._batches_in_pass = self._empty_in_a_row = 0

    # ---- Batches ----

    def begin_pass(self) -> None:
        """Count batches and rows from zero."""
        self._batches_in_pass = self._rows_in_pass = 0

    def begin(self, batches: Sequence[dict[str, Any]], num_batches: int, device: torch.device) -> list[dict[str, Any]]:
        """
        Begin a step. All processes call this.

        Args:
            batches (`Sequence[dict]`): This process's batches; fewer than `num_batches` at the end of its data.
            num_batches (`int`): Batches of a step.
            device (`torch.device`): Where the processes' counts are gathered.

        Returns:
            `list[dict]`: As many batches as every process has, those without rows first. `EVERYONE` in each tells how
            many rows all processes have of it.

        Raises:
            TrainingStoppedError: Too many batches in a row had no usable row.
        """
        # One row count per batch and process, -1 for batches after a process's last: all processes end there.
        counts = [rows_in(batch) for batch in batches] + [-1] * (num_batches - len(batches))
        table = self.trainer.accelerator.gather(torch.tensor([counts], device=device))
        ended = (table < 0).any(dim=0).tolist()
        totals = table.clamp(min=0).sum(dim=0).tolist()
        number = ended.index(True) if True in ended else num_batches
        # Those without rows first: several processes average their gradients in the last batch of a step.
        ordered = sorted(zip(batches[:number], totals[:number], strict=True), key=lambda entry: entry[1] > 0)
        self.batches = [{**batch, EVERYONE: total} for batch, total in ordered if total]
        self._last_batch = self.batches[-1] if self.batches else self._last_batch
        self.losses = []
        self._count(totals[:number])
        return [{**batch, EVERYONE: total} for batch, total in ordered]

    def _count(self, totals: list[int]) -> None:
        if not totals:
            return
        self._since_log += 1
        self._empty_since_log += not any(totals)
        self._batches_in_pass += len(totals)
        self._rows_in_pass += sum(totals)
        for total in totals:
            self._empty_in_a_row = 0 if total else self._empty_in_a_row + 1
            self.batches_without_rows += not total
        if 0 in totals and self.trainer.is_world_process_zero():
            logger.warning(
                f"Step {self.trainer.state.global_step + 1}: all rows of {totals.count(0)} of its {len(totals)} "
                "batches are broken, so nothing is learned from them."
            )
        if self._empty_in_a_row >= MAX_BATCHES_WITHOUT_ROWS:
            self._stop_without_rows(f"the last {self._empty_in_a_row} batches")

    def end_pass(self) -> None:
        """Raise `TrainingStoppedError` if a pass had batches and not one usable row."""
        if self._batches_in_pass and not self._rows_in_pass:
            self._stop_without_rows("this pass over the data")

    def _stop_without_rows(self, where: str) -> None:
        report = getattr(self.trainer.data_collator, "broken_rows", None)
        listed = "" if report is None else f" {report.summary()}"
        raise TrainingStoppedError(
            f"Training stops after step {self.trainer.state.global_step}: all rows of {where} are broken.{listed}"
        )

    def forget(self) -> None:
        """Let go of the batches: they take memory."""
        self.batches, self._last_batch = [], None

    # ---- Loss and gradients ----

    def cached_step(self, model: nn.Module, inputs: dict[str, Any], mini_batch_size: int) -> torch.Tensor:
        """
        Forward, loss and backward of a batch with gradient caching, in place of `Trainer.training_step`.

        Args:
            model (`nn.Module`): The model, with DDP around it in several processes.
            inputs (`dict`): A batch with rows, on the model's device.
            mini_batch_size (`int`): Rows that go through the towers at a time.

        Returns:
            `torch.Tensor` of shape `()`: This batch's share of the step's mean loss, detached.
        """
        trainer = self.trainer
        model.train()
        set_optimizer_mode = getattr(trainer.optimizer, "train", None)  # schedule-free optimizers have modes too
        if callable(set_optimizer_mode):
            set_optimizer_mode()
        weight = 1.0 / trainer.current_gradient_accumulation_steps
        trainer.core.objective.step = trainer.state.global_step
        # FSDP2 would keep whole gradients for as long as it does not average them, so it does so in each mini-batch.
        keep = functools.partial(trainer.accelerator.no_sync, model)
        with trainer.compute_loss_context_manager():
            loss, parts = cached_backward(
                model,
                trainer.core,
                model_inputs(inputs),
                mini_batch_size=mini_batch_size,
                backward=trainer.accelerator.backward,
                no_sync=contextlib.nullcontext if trainer.is_fsdp_enabled else keep,
                loss_weight=weight,
                teach=None if trainer.teacher is None else trainer.teacher.bound_to(trainer.bare(model)),
                autocast=trainer.accelerator.autocast,
                passes=self._passes(inputs, mini_batch_size),
            )
        self.parts.add(parts)
        every = trainer.args.torch_empty_cache_steps
        if every is not None and trainer.state.global_step % every == 0:
            clear_device_cache()
        return loss * weight

    def _passes(self, batch: dict[str, Any], mini_batch_size: int) -> int | None:
        """With FSDP2, how many mini-batches every process cuts its batch into: together they gather each layer."""
        if not self.trainer.is_fsdp_enabled:
            return None
        own = torch.tensor([passes_of(rows_in(batch), mini_batch_size)], device=self.trainer.args.device)
        return max(1, *self.trainer.accelerator.gather(own).tolist())

    @property
    def learned(self) -> bool:
        """After an optimizer step: whether there was a row to learn from, and fp16 did not leave the step out."""
        return bool(self.batches) and not self.trainer.accelerator.optimizer_step_was_skipped

    def check_gradients(self, norm: Any) -> None:
        """
        Before an optimizer step: its losses and its gradients are finite.

        Args:
            norm (`float` or `torch.Tensor`, *optional*): Of the gradients, before they were clipped.

        Raises:
            TrainingStoppedError: On all processes, if they are not on one.
        """
        values = {"loss": sum(self.losses), "gradient norm": norm}
        wrong = {name: float(value) for name, value in values.items() if value is not None}
        wrong = {name: value for name, value in wrong.items() if not math.isfinite(value)}
        if (scaler := self.trainer.accelerator.scaler) is not None and scaler.get_scale() > MIN_LOSS_SCALE:
            wrong.pop("gradient norm", None)  # fp16: the scaler leaves this step out and lowers its scale
        self.stop_together(wrong, f"at step {self.trainer.state.global_step + 1}")

    def check_weights(self) -> None:
        """
        Before weights are kept: they are finite, and the loss that they give for the step's last rows is.

        Raises:
            TrainingStoppedError: On all processes, if they are not on one.
        """
        when = f"after step {self.trainer.state.global_step}"
        trained = [parameter for parameter in self.trainer.model.parameters() if parameter.requires_grad]
        # With ZeRO-3 this process's part is `ds_tensor`.
        parts = [one.to_local() if isinstance(one, DTensor) else getattr(one, "ds_tensor", one) for one in trained]
        broken = sum(not bool(part.isfinite().all()) for part in parts)
        name = f"number of tensors with weights that are not finite, of {len(trained)},"
        self.stop_together({name: broken} if broken else {}, when)
        if not self.trainer.is_deepspeed_enabled:  # it may not hold the whole model
            loss = 0.0 if self._last_batch is None else self.loss_again(self._last_batch)
            name = "loss of the last rows, seen once more,"
            self.stop_together({} if math.isfinite(loss) else {name: loss}, when)

    def loss_again(self, batch: dict[str, Any]) -> float:
        """The loss of a batch in evaluation mode, without gradients."""
        trainer = self.trainer
        if rows_in(batch) == 0 and not trainer.shares_rows and not trainer.is_fsdp_enabled:
            return 0.0
        model = trainer.bare(trainer.model)
        size = trainer.args.mini_batch_size or trainer.args.per_device_train_batch_size
        teach = None if trainer.teacher is None else trainer.teacher.bound_to(model)
        inputs = model_inputs(trainer._prepare_inputs(batch))
        trainer.core.objective.step = None
        with evaluation_mode(model), trainer.accelerator.autocast():
            passes = self._passes(inputs, size)
            return float(
                loss_in_mini_batches(model, trainer.core, inputs, mini_batch_size=size, teach=teach, passes=passes)
            )

    def stop_together(self, wrong: Mapping[str, float], when: str) -> None:
        """
        Raise [`TrainingStoppedError`] on all processes if something is wrong on one. All processes call this.

        Args:
            wrong (`Mapping[str, float]`): What is wrong on this process, and its value.
            when (`str`): Such as `at step 3`, for the message.
        """
        trainer = self.trainer
        flag = torch.tensor([bool(wrong)], dtype=torch.int32, device=trainer.args.device)
        if not any(trainer.accelerator.gather(flag).tolist()):
            return
        own = [(wrong, [key for batch in self.batches for key in row_names(batch)])]
        everyone = gather_object(own) if trainer.args.world_size > 1 else own
        values = next(values for values, _ in everyone if values)
        keys = [key for _, keys in everyone for key in keys]
        what = " and ".join(f"the {name} is {value:g}" for name, value in values.items())
        checkpoint = last_complete_checkpoint(str(trainer.args.output_dir))
        kept = f"The last good checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint before it."
        shown = f" The rows: {', '.join(keys[:SHOWN_KEYS])}" if keys else ""
        more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
        raise TrainingStoppedError(
            f"Training stops {when}, at the learning rate {trainer._get_learning_rate():g}: {what}. Nothing of it was "
            f"saved. {kept} Lower `learning_rate`, lengthen `warmup_steps`, or look at the rows.{shown}{more}"
        )

    # ---- Log ----

    def count_repeated(self, inputs: dict[str, Any]) -> None:
        """Count the images and captions that a batch, of all processes that share rows, has more than once."""
        objective = self.trainer.core.objective
        found = batch_digests(inputs, objective)
        if self.trainer.shares_rows:
            accelerator = self.trainer.accelerator
            found = accelerator.gather(accelerator.pad_across_processes(found, dim=0, pad_index=-1))
        self.repeated.add(count_repeated(found, objective))

    def with_parts(self, logs: dict[str, float]) -> dict[str, float]:
        """A log of steps, with the parts of the loss and what was counted since the last one."""
        processes = self.trainer.args.world_size
        parts, repeated = self.parts.means(processes), self.repeated.means(processes)
        return {**self._without_empty_steps(logs), **parts, **{k: v for k, v in repeated.items() if v}}

    def _without_empty_steps(self, logs: dict[str, float]) -> dict[str, float]:
        """`Trainer` averages over all steps, also those that had no loss."""
        steps, empty = self._since_log, self._empty_since_log
        self._since_log = self._empty_since_log = 0
        if not empty:
            return logs
        logs = {**logs, "batches_without_rows": self.batches_without_rows}
        loss = logs.pop("loss")
        return {**logs, "loss": loss * steps / (steps - empty)} if steps > empty else logs


class Means:
    """Means of values by name since they were last asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Count one value of each name in, scalars."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self, processes: int) -> dict[str, float]:
        """The means over all processes, which call this together; then counting starts anew."""
        own = {name: (float(total), self._counts[name]) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        # A process may have had no rows, and a step not all terms.
        everyone = gather_object([own]) if processes > 1 else [own]
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for one in everyone for name in one):
            values = [one[name] for one in everyone if name in one]
            found[name] = sum(total for total, _ in values) / sum(count for _, count in values)
        return found
