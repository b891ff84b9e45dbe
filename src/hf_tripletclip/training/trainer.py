# SPDX-License-Identifier: Apache-2.0
"""`TripletCLIPTrainer`: transformers' `Trainer` for contrastive training with hard negative pairs.

Its methods stand in the order in which a run calls them: set up, start or resume, take steps, evaluate, save, push.
What they need is in the plain functions and objects of the modules that are imported here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from huggingface_hub import CommitInfo
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, has_length, unwrap_peft_model
from transformers.utils import logging

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.layouts.adapters import load_logit_scale, save_logit_scale
from hf_tripletclip.modeling import TripletMixin
from hf_tripletclip.modeling.decoder_input import load_decoder_input, save_decoder_input
from hf_tripletclip.training import (
    checkpointing,
    evaluation,
    locked_towers,
    overlap,
    pushing,
    record,
    resuming,
    sharding,
    teacher,
    trainer_setup,
    training_batches,
    zero,
)
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.callbacks import StopAtRetentionLoss, callbacks_of
from hf_tripletclip.training.draws import draws_of
from hf_tripletclip.training.gradcache import WITHOUT_LOSS, trained_outputs
from hf_tripletclip.training.neighbour_sampler import NeighbourSampler, neighbour_sampler, neighbours_of
from hf_tripletclip.training.output_lock import output_held
from hf_tripletclip.training.resume_settings import Course
from hf_tripletclip.training.steps import Steps, TrainingStoppedError
from hf_tripletclip.training.towers import hold_weights_in
from hf_tripletclip.training.trainer_setup import temporarily
from hf_tripletclip.training.training_batches import EVERYONE, TrainingCollator, model_inputs, rows_in

logger = logging.get_logger(__name__)


class TripletCLIPTrainer(Trainer):
    r"""
    Trains a [`TripletCLIPModel`], or what else [`AutoTripletModel`] loads, also inside a `PeftModel`.

    All that [`~transformers.Trainer`] does keeps working, FSDP2 and DeepSpeed too but not FSDP1. This class adds: the
    objective's loss over the batch of all processes, gradient caching (`mini_batch_size`), the bound on `logit_scale`,
    the parts of the loss in the log, compositional metrics and benchmarks (`eval_benchmarks`) at every evaluation,
    checkpoints that are known to be complete, runs that resume exactly or are refused, and checks of the data before
    training starts. With `cache_locked_towers` each image and caption goes once through a tower that does not train.

    The weights are held in float32 (`weights_dtype`): a model in half precision is converted in place, with a warning.
    If a loss or a gradient norm is not finite, or if no row of a pass or of 100 batches in a row can be used, training
    stops with a `TrainingStoppedError` (a `ValueError`) on all processes, before anything of it is saved. A single
    batch without usable rows is passed over (`batches_without_rows` in the log). Images and captions that stand in a
    batch more than once are counted (`repeated_images`, `repeated_captions`).

    Args:
        model ([`TripletCLIPModel`] or `PeftModel`): The model to train.
        args ([`TripletCLIPTrainingArguments`]): The arguments.
        data_collator (`Callable`, *optional*):
            Defaults to a [`TripletCollator`] with `processing_class`, or to transformers' `default_data_collator`
            if the rows are tensors already (`pixel_values`, `input_ids`, `negative_pixel_values`, ...).
        train_dataset, eval_dataset (`datasets.Dataset`, `datasets.IterableDataset`, *optional*):
            Rows with the columns that the objective needs; `eval_dataset` may be a dict of datasets.
        processing_class ([`~transformers.CLIPProcessor`], *optional*): Saved beside the model.
        compute_metrics (`Callable`, *optional*):
            Replaces the compositional metrics. It gets an `EvalPrediction` with the embeddings
            (`predictions["image"]`, ...) and, as `label_ids`, indices into `NEGATIVE_TYPES`, -1 if unknown; broken
            rows are left out.
        kwargs: As in [`~transformers.Trainer`].

    Attributes:
        run_settings (`dict`): Settings of the script around the trainer, which a resumed run must share.
        overlap (`list[str]`, *optional*): Sentences on evaluation data that is trained on, once it was looked up.

    Raises:
        TypeError: The model is none that [`AutoTripletModel`] loads.
        OSError: The data of a benchmark is missing.
        ValueError: The objective or a benchmark is unknown, the processor is that of another model, a dataset is
            empty, smaller than a batch or lacks a column that the objective needs, a batch has one row only, FSDP1,
            FSDP in one process, or something that does not work with DeepSpeed, such as gradient caching.
    """

    args: TripletCLIPTrainingArguments
    hub_model_id: Any
    push_in_progress: Any

    # ---- Setting up ----

    def __init__(
        self,
        model: nn.Module,
        args: TripletCLIPTrainingArguments,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        core = trainer_setup.set_up_model(model, args, kwargs.get("compute_loss_func"))
        trainer_setup.use_one_gpu(args)
        sharding.check_processes(args)
        kwargs |= evaluation.metric_functions(compute_metrics, kwargs.get("preprocess_logits_for_metrics"), args)
        data_collator, train_dataset, eval_dataset = trainer_setup.set_up_data(
            core, args, data_collator, train_dataset, eval_dataset, processing_class
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        # The loss is a mean over the batch: `Trainer` divides it by the gradient accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.label_names = []
        self.run_settings: dict[str, Any] = {}
        self.overlap: list[str] | None = None
        self.without_dimensions: list[str] = []  # parameters that have one element in training with DeepSpeed
        self.neighbours = None if train_dataset is None else neighbours_of(args, train_dataset)
        self._neighbour_sampler: NeighbourSampler | None = None
        trainer_setup.check_decoder(self)
        self.steps, self.write_errors = Steps(self), checkpointing.WriteErrors()
        self.resumption, self.position = resuming.Resumption(self), resuming.DataPosition(self)
        self.add_callback(self.position)
        for callback in callbacks_of(args, core.config, model):
            self.add_callback(callback)
        # Now, before a checkpoint is loaded: a resumed run has the same teacher.
        self.teacher = teacher.teacher_of(self)
        self.tower_cache = locked_towers.cache_of(self)
        self._evaluating: str | None = None  # the prefix of the metrics of the evaluation that runs
        self._benchmarks_due = False
        trainer_setup.check_trainer(self)
        self.benchmarks = evaluation.make_benchmarks(args.benchmark_settings)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        sharding.use_on_cpus(self)
        if self.is_deepspeed_enabled:
            zero.load_whole_models()

    @property
    def core(self) -> TripletMixin:
        """The model inside the wrappers of `accelerate` and `peft`."""
        return unwrap_peft_model(self.accelerator.unwrap_model(self.model))

    def bare(self, model: Any) -> Any:
        """A model without `accelerate`'s wrappers: a teacher must not meet DDP's hooks."""
        return self.accelerator.unwrap_model(model)

    @property
    def shares_rows(self) -> bool:
        """Whether the rows of several processes are each other's negatives."""
        return self.args.world_size > 1 and self.core.objective.negatives_across_devices

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and self.is_fsdp_enabled:
            sharding.own_groups(optimizer, sharding.kept_whole(self.model))
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices only, as in OpenCLIP: no biases, no norms, no class embedding and no `logit_scale`."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

    def fill_tower_cache(self) -> int:
        """
        Let each image and caption of the training data go through the locked towers, and the teacher's, now unless it
        has before; without this the first pass does. Of several captions of which one is drawn (`laclip`), the others
        go through in the pass that draws them. All processes call this.

        Returns:
            `int`: How many went through a tower in this process.

        Raises:
            ValueError: There is no `cache_locked_towers`, or the training data is a stream.
        """
        return locked_towers.fill_caches(self)

    def look_at_data(self, **evaluated: Any) -> None:
        """
        Warn of what is both trained and evaluated on, and of what stands in the training data more than once, as far
        as that is known beforehand. `train` does so once.

        Args:
            evaluated (`Dataset` or `Benchmark`): What is evaluated besides, by name.
        """
        if self.overlap is None:
            raw = self.is_world_process_zero() and isinstance(self.data_collator, TripletCollator)
            self.overlap = overlap.look_at_data(self, evaluated) if raw else []

    # ---- A run, from its start or from a checkpoint ----

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> Any:
        """
        Train, see [`~transformers.Trainer.train`].

        Raises:
            AlreadyTraining: Another run trains in the output folder.
            ValueError: The checkpoint is damaged, or of a run with other settings; there is none; or the processes do
                not see the same one.
        """
        hold_weights_in(self.bare(self.model), self.args.weights_dtype)  # somebody may have called `model.half()`
        self.look_at_data()
        with output_held(self.args):
            checkpoint = resuming.agree_on_checkpoint(resume_from_checkpoint, self.args)
            if checkpoint is None and checkpointing.as_flag(resume_from_checkpoint):
                raise ValueError(f"{self.args.output_dir} has no complete checkpoint to resume from.")
            trainer_setup.check_best_metric(self)
            self.resumption.check(checkpoint)
            if checkpoint is not None and self.is_world_process_zero():
                resuming.set_others_aside(checkpoint, str(self.args.output_dir))
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _prepare_for_training(self, *given: Any, **further: Any) -> Any:
        if self.is_deepspeed_enabled:
            self.without_dimensions = zero.give_dimensions(self.bare(self.model))
        with sharding.being_sharded(self):
            return super()._prepare_for_training(*given, **further)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with checkpointing.reading_of(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            load_logit_scale(self.bare(model or self.model), resume_from_checkpoint)
            if self.teacher is not None:
                self.teacher.load(resume_from_checkpoint)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        """The trainer's state, and where in the data it goes on: in which pass, and after how many batches of it."""
        given = (max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial)
        with checkpointing.reading_of(checkpoint):
            by_steps = super()._init_training_state(*given)
        if checkpoint is None:
            return by_steps
        self.state.compute_steps(self.args, max_steps)  # the intervals are those of this run
        resuming.restore_callbacks(self, checkpoint)
        resuming.find_best_checkpoint(self)
        return self.resumption.start(checkpoint, by_steps)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with checkpointing.reading_of(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            load_decoder_input(self.core, checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with checkpointing.reading_of(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with checkpointing.reading_of(checkpoint):
            super()._load_rng_state(checkpoint)

    # ---- A pass over the data, and its batches ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        locked_towers.check_same_as_teacher(self)
        collator = self.data_collator
        if isinstance(collator, TripletCollator):
            collator = TrainingCollator(locked_towers.with_known_images(self.tower_cache, collator))
        with temporarily(self, data_collator=collator):
            if isinstance(self.train_dataset, torch.utils.data.IterableDataset) and self.args.dataloader_drop_last:
                return training_batches.stream_loader(self)
            return training_batches.share_last_batch(super().get_train_dataloader())

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.neighbours is None:
            return super()._get_train_sampler(train_dataset)
        self._neighbour_sampler = neighbour_sampler(self.neighbours, self.args)
        return self._neighbour_sampler

    def _run_epoch(self, *, epoch: int, **given: Any) -> None:  # type: ignore[override]
        for draw in draws_of(self.data_collator):
            draw.epoch.fill_(epoch)
        if self._neighbour_sampler is not None:  # accelerate does not reach it through all its wrappers
            self._neighbour_sampler.set_epoch(epoch)
        if resuming.takes_no_more_steps(self):
            self.control.should_training_stop = True
            return
        resumed = given["resume_from_checkpoint"] is not None and epoch == given["epochs_trained"]
        done = given["steps_trained_in_current_epoch"] if resumed else 0
        self.steps.begin_pass()
        self.position.begin_pass(epoch, done)
        try:
            if resumed and has_length(given["train_dataloader"]) and done >= given["steps_in_epoch"] > 0:
                self._end_pass(epoch, given)
            else:
                super()._run_epoch(epoch=epoch, **given)
        finally:
            locked_towers.flush_caches(self)  # before another pass, whose rows other processes have seen in part
        self.steps.end_pass()

    def _end_pass(self, epoch: int, given: dict[str, Any]) -> None:
        """Go on from a checkpoint of a pass's last step, after which others still evaluate, log or save."""
        self._load_rng_state(given["resume_from_checkpoint"])
        self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        where = (self._tr_loss, None, given["model"], given["trial"], epoch)
        self._maybe_log_save_evaluate(*where, given["ignore_keys_for_eval"], given["start_time"])

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """The batches of the next step, none if the pass has ended."""
        batches: list[Any] = []
        if not self.position.is_over(epoch_iterator):
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            batches = self.position.advance(epoch_iterator, batches, num_batches)
        batches = [locked_towers.with_known_outputs(self.tower_cache, batch) for batch in batches]
        return self.steps.begin(batches, num_batches, device), None

    # ---- A step: each of its batches, then its gradients ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward, loss and backward of a batch. Returns its share of the step's mean loss, shape `()`, detached."""
        if inputs.get(EVERYONE) == 0:
            return torch.zeros((), device=self.args.device)
        self.current_gradient_accumulation_steps = len(self.steps.batches) or self.current_gradient_accumulation_steps
        self.steps.count_repeated(inputs)
        # A process without rows takes part in what the others send and receive, which is the same either way.
        if self.args.mini_batch_size is None or (rows_in(inputs) == 0 and not self.is_fsdp_enabled):
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self.steps.cached_step(model, self._prepare_inputs(inputs), self.args.mini_batch_size)
        if self.is_fsdp_enabled and self.accelerator.sync_gradients:
            sharding.average_gradients(model)
        self.steps.losses.append(loss.detach())
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The objective's loss of a batch, shape `()`, in training and in evaluation."""
        inputs = model_inputs(inputs)
        if rows_in(inputs) == 0 and not self.shares_rows:  # a loss of zero, with a gradient for every parameter
            outputs = model(**inputs, **WITHOUT_LOSS)
            loss = sum(values.sum() for values in trained_outputs(outputs).values()) + 0 * self.core.logit_scale
            return (loss, outputs) if return_outputs else loss
        of_teacher = {} if self.teacher is None else {"teacher_embeds": self.teacher(self.bare(model), inputs)}
        self.core.objective.step = self.state.global_step if model.training else None
        outputs = model(**inputs, **of_teacher, return_loss=True, return_logits=False)
        if model.training:
            self.steps.parts.add(outputs["loss_parts"])
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(model) if self.steps.batches else torch.zeros(())

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called before each optimizer step, whether gradients are clipped or not."""
        if not self.steps.batches:  # nothing was learned from: the optimizer, with its momentum, stays as it is
            self.accelerator.gradient_state._set_sync_gradients(False)
            return None
        norm = super()._get_grad_norm(model, grad_norm)
        self.steps.check_gradients(norm)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(self.steps.with_parts(logs) if "loss" in logs else logs, start_time)

    # ---- Evaluation ----

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        # `eval_on_start` means the start of the run: before it was resumed, it has evaluated at its step if due.
        if skip_scheduler and self.state.global_step > 0:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        if self._evaluating is not None:  # `Trainer` evaluates each of several datasets by this method
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        with temporarily(self, _evaluating=metric_key_prefix, _benchmarks_due=bool(self.benchmarks)):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        with self._all_rows_of(eval_dataset):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        with self._all_rows_of(test_dataset):
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _all_rows_of(self, dataset: Any) -> Iterator[None]:
        trainer_setup.refuse_stream(dataset, self.args)
        collator = evaluation.evaluation_collator(self, dataset)
        with temporarily(self, data_collator=collator), temporarily(self.args, dataloader_drop_last=False):
            yield

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor | None]:
        """The loss of a batch, shape `()`, and unless only that is wanted its embeddings by role and its labels."""
        loss, embeddings, labels = evaluation.predict(self, model, self._prepare_inputs(inputs))
        return (loss, None, None) if prediction_loss_only else (loss, embeddings, labels)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        sharding.check_evaluation(self)
        zero.check_evaluation(self)
        output = super().evaluation_loop(*args, **kwargs)
        locked_towers.flush_caches(self)
        if output.label_ids is not None:
            output = output._replace(label_ids=evaluation.kinds_in(output.label_ids))
        if self._benchmarks_due:  # once, and here, so that callbacks such as early stopping see the metrics
            self._benchmarks_due = False
            with sharding.gathered(self) as model:
                metrics = evaluation.benchmark_metrics(self.benchmarks, model, self.processing_class, self.args)
            metrics = {f"{self._evaluating}_{name}": value for name, value in metrics.items()}
            output = output._replace(metrics={**(output.metrics or {}), **metrics})
        return output

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:  # the rows have no such negatives, or `compute_metrics` does not give it
            names = ", ".join(name for name, value in metrics.items() if isinstance(value, float))
            raise TrainingStoppedError(
                f"`metric_for_best_model` is {self.args.metric_for_best_model!r}, which the evaluation did not give; "
                f"there are {names}."
            ) from error

    # ---- Saving: a checkpoint is written whole, or removed by all processes ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.steps.check_weights()
        checkpoint = f"{self._get_output_dir(trial=trial)}/{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            checkpointing.unmark(checkpoint)
        # Old checkpoints go only once the new one is complete.
        with temporarily(self.args, save_total_limit=None), self.write_errors.of_checkpoint() as errors:
            with self.write_errors.caught():
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save and not errors:
                with self.write_errors.caught():
                    self._complete(checkpoint)
        checkpointing.report_together(checkpoint, errors, self)
        if self.args.should_save:
            checkpointing.rotate(checkpoint, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _complete(self, checkpoint: str) -> None:
        """Add to a checkpoint what `Trainer` does not know of the run, then the marker that it is complete."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, StopAtRetentionLoss):
                callback.save(checkpoint, self.state.global_step)
        if self.teacher is not None:
            self.teacher.save(checkpoint)
        save_decoder_input(self.core, checkpoint)
        Course(self.resumption.settings or {}, self.position.as_saved(), self.resumption.changes).save(checkpoint)
        checkpointing.mark_complete(checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.write_errors.caught():
            if sharding.is_sharded(self.model) and not sharding.saves_whole_weights(self):
                # Such checkpoints hold parts. The whole weights stand beside them, so that anything can open them.
                self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if state_dict is not None and self.without_dimensions:
            own = {name: state_dict[name].reshape(()) for name in self.without_dimensions if name in state_dict}
            state_dict = {**state_dict, **own}
        with zero.scale_as_saved(self), pushing.tokens_not_pickled(self.args):
            super()._save(output_dir, state_dict)
            if self.args.should_save:  # this is called in all processes
                save_logit_scale(self.bare(self.model), str(output_dir or self.args.output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self.write_errors.caught():
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_scaler(self, output_dir: str) -> None:
        with self.write_errors.caught():
            super()._save_scaler(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        with self.write_errors.caught():
            super()._save_rng_state(output_dir)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step > self._initial_global_step:
            self.steps.check_weights()
        self.steps.forget()
        result = super()._finalize_training(*args, **kwargs)
        zero.take_dimensions(self)
        return result

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        # A checkpoint of this package; what process 0 reads decides for all.
        wrong = broadcast_object_list([checkpointing.damage(best) if self.args.process_index == 0 else None])[0]
        if wrong is not None:
            logger.warning(f"The best checkpoint, {best}, is damaged: {wrong}. The model of the last step is kept.")
            return
        with checkpointing.reading_of(best):
            super()._load_best_model()
            if not self.is_deepspeed_enabled:  # which has loaded it
                load_logit_scale(self.bare(self.model), best)

    # ---- Pushing to the Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        Make the repository `hub_model_id`, or one with the output folder's name, unless it exists.

        Raises:
            ValueError: It is no id.
            OSError: The Hub cannot be reached or refuses it.
        """
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).resolve().name
        destination = pushing.destination_of(self.args, name, token, private)
        destination.prepare()
        self.hub_model_id = destination.repo_id
        self.push_in_progress = None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and not self.write_errors.kept:  # what is not whole is not uploaded
            pushing.push_checkpoint(self, checkpoint_folder)

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
        Save the model and upload it by [`~hf_tripletclip.push_model`], with a card. All processes call this.

        Args:
            commit_message, blocking: As in [`~transformers.Trainer.push_to_hub`].
            token, revision, private: By default `hub_token`, `hub_revision` and `hub_private_repo` of the arguments; a
                branch or a repository is made unless it exists.
            kwargs: Arguments of `create_model_card`.

        Returns:
            `huggingface_hub.CommitInfo`, or a `Future` of it if `blocking` is `False`; `None` in other processes than
            the main one.

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
        destination = pushing.destination_of(self.args, str(self.hub_model_id), token, private, revision)
        return pushing.upload(self.args, str(self.args.output_dir), destination, commit_message, blocking=blocking)

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
        Write the model's card into the output folder, as `push_to_hub` does: how the model is opened, the objective
        with its equation, the hyperparameters, and what was measured. A card that somebody wrote stays.

        Args:
            license, tags: License of the weights, an identifier of the Hub, and further tags.
            model_name: By default the name of the repository, or of the output folder.
            finetuned_from: By default what the model was loaded from.
            dataset_tags, dataset: The dataset's id on the Hub; or its name, if it is not there.
            language, tasks, dataset_args: Not used: a CLIP has one task, and captions show their language.
        """
        if not self.is_world_process_zero():
            return
        names = dataset_tags or dataset or None
        record.write_trainer_card(
            self,
            license=license,
            tags=[tags] if isinstance(tags, str) else tags or [],
            name=model_name,
            base_model=finetuned_from,
            dataset=names if isinstance(names, str) or names is None else names[0],
        )
