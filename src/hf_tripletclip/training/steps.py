# SPDX-License-Identifier: Apache-2.0
"""The steps of training: what each learns from, and when there is no going on."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from torch import nn
from transformers import Trainer
from transformers.utils import logging

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.evaluation.encoder import evaluation_mode
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.roles import ROLES
from hf_tripletclip.training.batches import (
    CONTENTS,
    EVERYONE,
    TrainingCollator,
    batch_digests,
    count_repeated,
    model_inputs,
    row_names,
    rows_in,
    share_last_batch,
)
from hf_tripletclip.training.checkpointing import last_complete_checkpoint
from hf_tripletclip.training.drawing import draws_of
from hf_tripletclip.training.gradcache import WITHOUT_LOSS, cached_backward, loss_in_mini_batches, trained_outputs
from hf_tripletclip.training.locked import fill, require_same_towers
from hf_tripletclip.training.resuming import ResumingTrainer, TrainingStoppedError
from hf_tripletclip.training.teacher import Teacher
from hf_tripletclip.training.tower_cache import TowerCache

logger = logging.get_logger(__name__)

MAX_BATCHES_WITHOUT_ROWS = 100  # one after the other: then the data is taken to be broken as a whole
MIN_LOSS_SCALE = 2.0**-10  # of fp16: gradients that are not finite even so come from the model
SHOWN_KEYS = 8


class StepTrainer(ResumingTrainer):
    """
    The part of [`TripletCLIPTrainer`] that takes steps. All processes do the same: a batch of which no row is usable
    anywhere is passed over by all, and where a loss or a gradient is not finite on one, all stop.
    """

    teacher: Teacher | None = None
    tower_cache: TowerCache | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_deepspeed_enabled and self.core.objective.state_roles:
            raise ValueError(
                f"The objective {self.core.objective.name!r} with a decoder trains in one process and with DDP, not "
                "with DeepSpeed, which keeps the weights of a run in its own way: leave `decoder` out, or use DDP."
            )
        if self.core.objective.state_roles and self.optimizer is not None:
            matrix: Any = self.core.decoder_input
            known = {id(value) for group in self.optimizer.param_groups for value in group["params"]}
            if id(matrix.weight) not in known:
                raise ValueError(
                    "The optimizer that was given has not the matrix of the objective's decoder, which would stay as "
                    "it is: call `model.set_objective` before it is made, or leave `optimizers` out."
                )
        self._parts, self._repeated = Means(), Means()
        self._batches: list[dict[str, Any]] = []  # of the step that is taken
        self._last_batch: dict[str, Any] | None = None  # that had rows
        self._losses: list[torch.Tensor] = []
        self._steps_since_log = self._empty_steps_since_log = 0
        self._rows_in_pass = self._batches_in_pass = self._empty_in_a_row = 0
        self.batches_without_rows = 0  # that were passed over

    # ---- Batches ----

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        collator = self.data_collator
        if self.tower_cache is not None and self.teacher is not None and self.teacher.towers is not None:
            require_same_towers(self.tower_cache, self.teacher.towers)
        if isinstance(collator, TripletCollator):
            self.data_collator = TrainingCollator(self.with_known_images(collator))
        try:
            return share_last_batch(super().get_train_dataloader())
        finally:
            self.data_collator = collator

    def with_known_images(self, collator: TripletCollator) -> TripletCollator:
        """The collator, which with `cache_locked_towers` decodes only images that the locked tower has not seen."""
        known = None if self.tower_cache is None else self.tower_cache.known_images(collator.processor)
        return collator if known is None else dataclasses.replace(collator, known_images=known)

    def with_known_outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch, with `cache_locked_towers` with what locked towers put out in place of what goes into them."""
        if self.tower_cache is None:
            return batch
        # Of what goes in: outputs of the same picture may differ in their last bits from process to process.
        contents = input_contents(batch, [name for name, role in ROLES.items() if role.model_input in batch])
        return {**self.tower_cache.inputs(batch), CONTENTS: contents}

    def fill_tower_cache(self) -> int:
        """
        Let each image and caption of the training data go through the locked towers now, and the teacher's, unless it
        has before; without this the first pass does. Of captions of which one is drawn (`laclip`) the others go
        through in the pass that draws them. All processes call it.

        Returns:
            `int`: How many went through a tower in this process.

        Raises:
            ValueError: There is no `cache_locked_towers`, or the training data is a stream.
        """
        if self.tower_cache is None or self.train_dataset is None:
            raise ValueError("There is nothing to fill: give `cache_locked_towers` and a `train_dataset`.")
        taught = None if self.teacher is None else self.teacher.towers
        return fill(self, [self.tower_cache, *([] if taught is None else [taught])])

    def write_known(self) -> None:
        """Write what towers have put out since this was last called."""
        for cache in (self.tower_cache, None if self.teacher is None else self.teacher.towers):
            if cache is not None:
                cache.flush()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self.with_known_outputs(batch) for batch in batches]
        # One row count per batch and process, -1 where a process has come to its end: then all have.
        counts = [rows_in(batch) for batch in batches] + [-1] * (num_batches - len(batches))
        table = self.accelerator.gather(torch.tensor([counts], device=device))
        ended = (table < 0).any(dim=0).tolist()
        totals = table.clamp(min=0).sum(dim=0).tolist()
        there = ended.index(True) if True in ended else num_batches
        # Those without rows first: several processes average their gradients in the last batch of a step.
        found = sorted(zip(batches[:there], totals[:there], strict=True), key=lambda entry: entry[1] > 0)
        self._batches = [{**batch, EVERYONE: total} for batch, total in found if total]
        self._last_batch = self._batches[-1] if self._batches else self._last_batch
        self._losses = []
        self._count(totals[:there])
        return [{**batch, EVERYONE: total} for batch, total in found], None

    def _count(self, totals: list[int]) -> None:
        if not totals:
            return
        self._steps_since_log += 1
        self._empty_steps_since_log += not any(totals)
        self._batches_in_pass += len(totals)
        self._rows_in_pass += sum(totals)
        for total in totals:
            self._empty_in_a_row = 0 if total else self._empty_in_a_row + 1
            self.batches_without_rows += not total
        if 0 in totals and self.is_world_process_zero():
            logger.warning(
                f"Step {self.state.global_step + 1}: all rows of {totals.count(0)} of its {len(totals)} batches are "
                "broken, so nothing is learned from them."
            )
        if self._empty_in_a_row >= MAX_BATCHES_WITHOUT_ROWS:
            self._stop_without_rows(f"the last {self._empty_in_a_row} batches")

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._batches_in_pass = self._rows_in_pass = 0
        for draw in draws_of(self.data_collator):
            draw.epoch.fill_(inspect.signature(Trainer._run_epoch).bind(self, *args, **kwargs).arguments["epoch"])
        try:
            super()._run_epoch(*args, **kwargs)
        finally:
            self.write_known()  # before another pass, whose rows other processes have seen in part
        if self._batches_in_pass and not self._rows_in_pass:
            self._stop_without_rows("this pass over the data")

    def _stop_without_rows(self, where: str) -> None:
        report = getattr(self.data_collator, "broken_rows", None)
        listed = "" if report is None else f" {report.summary()}"
        raise TrainingStoppedError(
            f"Training stops after step {self.state.global_step}: all rows of {where} are broken.{listed}"
        )

    # ---- Loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        inputs = model_inputs(inputs)
        if rows_in(inputs) == 0 and not self._shares_rows:
            outputs = model(**inputs, **WITHOUT_LOSS)
            loss = sum(values.sum() for values in trained_outputs(outputs).values()) + 0 * self.core.logit_scale
            return (loss, outputs) if return_outputs else loss
        taught = {} if self.teacher is None else {"teacher_embeds": self.teacher(self._bare(model), inputs)}
        self.core.objective.step = self.state.global_step if model.training else None
        outputs = model(**inputs, **taught, return_loss=True, return_logits=False)
        if model.training:
            self._parts.add(outputs["loss_parts"])
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if inputs.get(EVERYONE) == 0:
            return torch.zeros((), device=self.args.device)
        self.current_gradient_accumulation_steps = len(self._batches) or self.current_gradient_accumulation_steps
        self._count_repeated(inputs)
        # A process without rows takes part in what the others send and receive, which is the same either way.
        size = self.args.mini_batch_size
        if size is None or rows_in(inputs) == 0:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._cached_step(model, inputs, size)
        self._losses.append(loss.detach())
        return loss

    def _cached_step(self, model: nn.Module, inputs: dict[str, Any], mini_batch_size: int) -> torch.Tensor:
        model.train()
        set_optimizer_mode = getattr(self.optimizer, "train", None)  # schedule-free optimizers have modes too
        if callable(set_optimizer_mode):
            set_optimizer_mode()
        inputs = self._prepare_inputs(inputs)
        weight = 1.0 / self.current_gradient_accumulation_steps
        self.core.objective.step = self.state.global_step
        with self.compute_loss_context_manager():
            loss, parts = cached_backward(
                model,
                self.core,
                model_inputs(inputs),
                mini_batch_size=mini_batch_size,
                backward=self.accelerator.backward,
                no_sync=functools.partial(self.accelerator.no_sync, model),
                loss_weight=weight,
                teach=None if self.teacher is None else self.teacher.bound_to(self._bare(model)),
                autocast=self.accelerator.autocast,
            )
        self._parts.add(parts)
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        return loss * weight

    @property
    def took_step(self) -> bool:
        """After an optimizer step: whether there was something to learn from, and fp16 did not leave it out."""
        return bool(self._batches) and not self.accelerator.optimizer_step_was_skipped

    @property
    def _shares_rows(self) -> bool:
        return self.args.world_size > 1 and self.core.objective.negatives_across_devices

    def _bare(self, model: Any) -> Any:
        """The model without `accelerate`'s wrappers: the teacher must not meet DDP's hooks."""
        return self.accelerator.unwrap_model(model)

    # ---- Is it finite? ----

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(model) if self._batches else torch.zeros(())

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called before each optimizer step, whether or not gradients are clipped."""
        if not self._batches:  # nothing was learned from: the optimizer, with its momentum, stays as it is
            self.accelerator.gradient_state._set_sync_gradients(False)
            return None
        norm = super()._get_grad_norm(model, grad_norm)
        values = {"loss": sum(self._losses), "gradient norm": norm}
        wrong = {name: float(value) for name, value in values.items() if value is not None}
        wrong = {name: value for name, value in wrong.items() if not math.isfinite(value)}
        if (scaler := self.accelerator.scaler) is not None and scaler.get_scale() > MIN_LOSS_SCALE:
            wrong.pop("gradient norm", None)  # fp16: the scaler leaves this step out and lowers its scale
        self._stop_together(wrong, f"at step {self.state.global_step + 1}")
        return norm

    def _require_finite(self) -> None:
        """Before weights are kept: they are finite, and the loss that they give of the step's rows is."""
        step = f"after step {self.state.global_step}"
        model: Any = self.model
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        broken = sum(not bool(parameter.isfinite().all()) for parameter in trained)
        name = f"number of tensors with weights that are not finite, of {len(trained)},"
        self._stop_together({name: broken} if broken else {}, step)
        if not self.is_deepspeed_enabled:  # it may not hold the whole model
            loss = 0.0 if self._last_batch is None else self._loss_again(self._last_batch)
            name = "loss of the last rows, seen once more,"
            self._stop_together({} if math.isfinite(loss) else {name: loss}, step)

    def _loss_again(self, batch: dict[str, Any]) -> float:
        if rows_in(batch) == 0 and not self._shares_rows:
            return 0.0
        model, size = self._bare(self.model), self.args.mini_batch_size or self.args.per_device_train_batch_size
        teach = None if self.teacher is None else self.teacher.bound_to(model)
        inputs = model_inputs(self._prepare_inputs(batch))
        self.core.objective.step = None
        with evaluation_mode(model), self.accelerator.autocast():
            return float(loss_in_mini_batches(model, self.core, inputs, mini_batch_size=size, teach=teach))

    def _stop_together(self, wrong: Mapping[str, float], when: str) -> None:
        """Raise [`TrainingStoppedError`] on all processes where something is wrong on one."""
        flag = torch.tensor([bool(wrong)], dtype=torch.int32, device=self.args.device)
        flags = self.accelerator.gather(flag).tolist()
        if not any(flags):
            return
        found = [(wrong, [key for batch in self._batches for key in row_names(batch)])]
        everyone = gather_object(found) if self.args.world_size > 1 else found
        values = next(values for values, _ in everyone if values)
        keys = [key for _, keys in everyone for key in keys]
        what = " and ".join(f"the {name} is {value:g}" for name, value in values.items())
        checkpoint = last_complete_checkpoint(str(self.args.output_dir))
        kept = f"The last good checkpoint is {checkpoint}." if checkpoint else "There is no checkpoint before it."
        shown = f" The rows: {', '.join(keys[:SHOWN_KEYS])}" if keys else ""
        more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
        raise TrainingStoppedError(
            f"Training stops {when}, at the learning rate {self._get_learning_rate():g}: {what}. Nothing of it was "
            f"saved. {kept} Lower `learning_rate`, lengthen `warmup_steps`, or look at the rows.{shown}{more}"
        )

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step > self._initial_global_step:
            self._require_finite()
        self._batches, self._last_batch = [], None  # memory
        return super()._finalize_training(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._require_finite()
        super()._save_checkpoint(model, trial)

    # ---- Log ----

    def _count_repeated(self, inputs: dict[str, Any]) -> None:
        objective = self.core.objective
        found = batch_digests(inputs, objective)
        if self._shares_rows:
            found = self.accelerator.pad_across_processes(found, dim=0, pad_index=-1)
            found = self.accelerator.gather(found)
        self._repeated.add(count_repeated(found, objective))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            parts = self._parts.means(self.args.world_size)
            repeated = self._repeated.means(self.args.world_size)
            logs = {**self._without_empty_steps(logs), **parts, **{k: v for k, v in repeated.items() if v}}
        super().log(logs, start_time)

    def _without_empty_steps(self, logs: dict[str, float]) -> dict[str, float]:
        """`Trainer` averages over all steps, also those that had no loss."""
        steps, empty = self._steps_since_log, self._empty_steps_since_log
        self._steps_since_log = self._empty_steps_since_log = 0
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
        """Count one value of each name in."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self, processes: int) -> dict[str, float]:
        """The means over all processes, which call this together; then it starts anew."""
        mine = {name: (float(total), self._counts[name]) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        # A process may have had no rows, and a step not all terms.
        everyone = gather_object([mine]) if processes > 1 else [mine]
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for one in everyone for name in one):
            values = [one[name] for one in everyone if name in one]
            found[name] = sum(total for total, _ in values) / sum(count for _, count in values)
        return found
