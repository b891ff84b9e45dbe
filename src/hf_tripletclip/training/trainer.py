# SPDX-License-Identifier: Apache-2.0
"""`TripletCLIPTrainer`: transformers' `Trainer` for contrastive training with hard negative pairs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from datasets import Dataset, IterableDataset, LargeList, List
from torch import nn
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import EvalLoopOutput, has_length, unwrap_peft_model
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from hf_tripletclip.data import TripletCollator, check_columns
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import CAPTION, COLUMNS
from hf_tripletclip.layouts.adapters import save_logit_scale
from hf_tripletclip.layouts.processor import LEGACY, check_processor
from hf_tripletclip.modeling import TripletCLIPModel
from hf_tripletclip.objectives import Objective
from hf_tripletclip.roles import ROLES, TRIPLET
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.batches import first_rows, model_inputs, rows_in
from hf_tripletclip.training.benchmarks import benchmark_metrics, make_benchmarks
from hf_tripletclip.training.callbacks import ClampLogitScale, LogWhenSaving
from hf_tripletclip.training.drawing import columns_of, drawing_collator
from hf_tripletclip.training.evaluation import (
    BROKEN,
    IDENTITIES,
    USABLE,
    EvaluationCollator,
    compositional_metrics,
    identities_of_tensors,
    kinds_in,
    labels_of,
    spread,
    without_broken_rows,
)
from hf_tripletclip.training.gradcache import FIELDS
from hf_tripletclip.training.locked import cache_of
from hf_tripletclip.training.overlap import describe_twins, find_overlap
from hf_tripletclip.training.retention import StopAtRetentionLoss
from hf_tripletclip.training.steps import StepTrainer
from hf_tripletclip.training.teacher import teacher_of
from hf_tripletclip.training.towers import hold_weights_in

logger = logging.get_logger(__name__)


class TripletCLIPTrainer(StepTrainer):
    r"""
    Trains a [`TripletCLIPModel`], also inside a `PeftModel`.

    What [`~transformers.Trainer`] does keeps working, except FSDP, which refuses CLIP's scalar `logit_scale`. Beyond
    it: the objective's loss over the batch of all processes, gradient caching (`mini_batch_size`), the bound on
    `logit_scale`, the objective's parts in the log, compositional metrics and benchmarks (`eval_benchmarks`) at every
    evaluation, checkpoints that are known to be complete, and checks of the data before training starts. With
    `cache_locked_towers` each image and caption goes through a tower that does not train once.

    The weights are held in float32 (`weights_dtype`): a model in half precision is converted in place, with a warning.
    Training stops with a `TrainingStoppedError` (a `ValueError`), on all processes and before anything of it is saved,
    where a loss or a gradient norm is not finite, or where no row of a pass, or of 100 batches in a row, can be used.
    A single batch without usable rows is passed over (`batches_without_rows` in the log); what stands twice
    in a batch is counted (`repeated_images`, `repeated_captions`).

    Args:
        model ([`TripletCLIPModel`] or `PeftModel`): The model to train.
        args ([`TripletCLIPTrainingArguments`]): The arguments.
        data_collator (`Callable`, *optional*):
            Defaults to a [`TripletCollator`] with `processing_class`, or to transformers' `default_data_collator`
            where the rows are tensors already (`pixel_values`, `input_ids`, `negative_pixel_values`, ...).
        train_dataset, eval_dataset (`datasets.Dataset`, `datasets.IterableDataset`, *optional*):
            Rows with the columns that the objective needs; `eval_dataset` may be a dict of datasets.
        processing_class ([`~transformers.CLIPProcessor`], *optional*): Saved beside the model.
        compute_metrics (`Callable`, *optional*):
            Replaces the compositional metrics. It gets an `EvalPrediction` with the embeddings
            (`predictions["image"]`, ...) and, as `label_ids`, indices into `NEGATIVE_TYPES`, -1 where unknown; broken
            rows are left out.
        kwargs: As in [`~transformers.Trainer`].

    Raises:
        TypeError: The model is no TripletCLIP model.
        OSError: The data of a benchmark is not there.
        ValueError: The objective or a benchmark is unknown, the processor is that of another model, a dataset is
            empty, smaller than a batch or lacks a column that the objective needs, a batch has one row only, FSDP is
            asked for, or gradient caching with DeepSpeed.
    """

    args: TripletCLIPTrainingArguments

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
        core = unwrap_peft_model(model)
        if not isinstance(core, TripletCLIPModel):
            raise TypeError(
                f"TripletCLIPTrainer trains a TripletCLIPModel, not a {type(core).__name__}. "
                "`TripletCLIPModel.from_pretrained` opens every CLIP checkpoint."
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "The loss is the objective's: give the model one of your own with `set_objective` instead."
            )
        # The model's own objective keeps its settings; how the processes train is for the arguments to say.
        settings = dict(core.config.objective_kwargs or {}) if args.objective is None else {}
        settings.pop("negatives_across_devices", None)
        settings |= args.objective_arguments
        if not args.negatives_across_devices:
            settings["negatives_across_devices"] = False
        core.set_objective(args.objective or core.objective.name, **settings)
        hold_weights_in(model, args.weights_dtype)
        if args.logit_scale_max is not None:
            core.config.logit_scale_max = args.logit_scale_max
        if args.n_gpu > 1:
            logger.warning(
                f"{args.n_gpu} GPUs are visible but this is one process: only the first is used. "
                "Start with `accelerate launch` to use them all."
            )
            args._n_gpu = 1
        if args.include_for_metrics and compute_metrics is None:
            raise ValueError(
                "`include_for_metrics` is for your own `compute_metrics`: the metrics here need nothing more."
            )
        if (preprocess := kwargs.get("preprocess_logits_for_metrics")) is not None:
            kwargs["preprocess_logits_for_metrics"] = lambda found, labels: preprocess(found, kinds_in(labels))
        ends = self._check_processors(core, processing_class, data_collator)
        _require_rows(train_dataset, "train_dataset")
        _require_rows(eval_dataset, "eval_dataset")
        if data_collator is None:
            if _is_preprocessed(train_dataset if train_dataset is not None else eval_dataset):
                data_collator = TensorCollator(ends)
            else:
                length = core.text_model.config.max_position_embeddings
                data_collator = TripletCollator(processing_class, columns=core.objective.columns, max_length=length)
        data_collator = core.objective.prepare_collator(data_collator)
        data_collator = drawing_collator(core.objective, data_collator, train_dataset, args)
        if isinstance(data_collator, TripletCollator):  # it decodes the images itself, and reports broken ones
            train_dataset, eval_dataset = _undecoded(train_dataset), _undecoded(eval_dataset)

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=functools.partial(without_broken_rows, compute_metrics or compositional_metrics),
            **kwargs,
        )
        # The loss is a mean over the batch: `Trainer` divides it by the gradient accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.label_names = []
        if (maximum := getattr(core.config, "logit_scale_max", None)) is not None:
            self.add_callback(ClampLogitScale(maximum))
        self.add_callback(LogWhenSaving())
        if args.retention_metric is not None:
            self.add_callback(StopAtRetentionLoss(args.retention_metric, args.max_retention_loss, model=model))
        # Now, before a checkpoint is loaded: a resumed run has the same teacher.
        self.teacher = teacher_of(self)
        self.tower_cache = cache_of(self)
        self._evaluating: str | None = None  # the prefix of the metrics of the evaluation that runs
        self._benchmarks_due = False
        self._check()
        self.benchmarks = make_benchmarks(args.benchmark_settings)

    # ---- Before training ----

    @staticmethod
    def _check_processors(model: TripletCLIPModel, *candidates: Any) -> int | None:
        """Check the processors that are given; returns the id of the token at which the text tower pools, if known."""
        at: Any = model.text_model.eos_token_id
        end = at if isinstance(at, int) and at != LEGACY else None
        for candidate in candidates:
            processor = getattr(candidate, "processor", candidate)  # a collator has one
            if getattr(processor, "tokenizer", None) is not None:
                end = check_processor(model, processor)
        return end

    def _check(self) -> None:
        args, objective = self.args, self.core.objective
        if args.benchmark_settings and self.processing_class is None:
            raise ValueError("`eval_benchmarks` need the model's processor: give it as `processing_class`.")
        if self.is_fsdp_enabled:
            raise ValueError("FSDP cannot shard a CLIP: it refuses scalar parameters such as `logit_scale`. Use DDP.")
        if args.mini_batch_size is not None and self.is_deepspeed_enabled:
            raise ValueError(
                "Gradient caching (`mini_batch_size`) works in one process and with DDP, not with DeepSpeed: unset "
                "it, or use `gradient_checkpointing` to save memory there."
            )
        if objective.needs_neighbours and self.train_dataset is not None and not args.batch_neighbours:
            raise ValueError(
                f"The objective {objective.name!r} learns from batches of nearest neighbours: train on what "
                "`tripletclip mine` wrote, with `batch_neighbours`, such as 1."
            )
        raw = isinstance(self.data_collator, TripletCollator)
        if raw and args.remove_unused_columns:
            raise ValueError("`remove_unused_columns` would drop the columns that rows are made of: leave it out.")
        if args.train_sampling_strategy == "group_by_length" and args.length_column_name not in (
            columns_of(self.train_dataset) or ()
        ):
            raise ValueError(
                f"`train_sampling_strategy` is group_by_length, but `train_dataset` has no column "
                f"{args.length_column_name!r} of lengths (`length_column_name`)."
            )
        if args.mini_batch_size is not None and args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO):
            raise ValueError(
                f"`optim` is {OptimizerNames(args.optim).value}, which changes weights while gradients are computed, "
                "and with gradient caching (`mini_batch_size`) after each mini-batch: choose another."
            )
        if self.train_dataset is not None:
            self._check_dataset(self.train_dataset, "train_dataset", objective)
            caption = (getattr(self.train_dataset, "features", None) or {}).get(CAPTION)
            if raw and isinstance(caption, (List, LargeList)) and not objective.draws_captions:
                raise ValueError(
                    f"`{CAPTION}` of `train_dataset` is a list, and the objective {objective.name!r} takes one per "
                    "row: make a row of each, or train with `laclip`, which draws one in each pass."
                )
            batch = args.train_batch_size
            if batch * (args.world_size if args.negatives_across_devices else 1) < 2:
                raise ValueError(
                    "A contrastive loss needs at least two rows in a batch: raise `per_device_train_batch_size`."
                )
            needed = batch * args.world_size
            if has_length(self.train_dataset) and args.dataloader_drop_last and len(self.train_dataset) < needed:
                raise ValueError(
                    f"`train_dataset` has {len(self.train_dataset)} rows, fewer than one batch of {needed}: lower "
                    "`per_device_train_batch_size`."
                )
            rows = len(cast(Any, self.train_dataset)) if has_length(self.train_dataset) else 0
            left = rows % needed
            if not raw and not args.dataloader_drop_last and 0 < left < args.world_size:
                raise ValueError(
                    f"The last batch of `train_dataset` has {left} of its {rows} rows, too few for "
                    f"{args.world_size} processes: turn `dataloader_drop_last` on, or change the batch size."
                )
        evals = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        for name, dataset in evals.items():
            self._refuse_stream(dataset)
            if dataset is not None:
                self._check_dataset(dataset, f"eval_dataset[{name!r}]" if name else "eval_dataset", objective)

    def _refuse_stream(self, dataset: Any) -> None:
        """Of a stream each process reads as much as it has: some would wait for others, or rows would count twice."""
        if self.args.world_size > 1 and isinstance(dataset, torch.utils.data.IterableDataset):
            raise ValueError(
                "Several processes cannot evaluate on a stream: load that dataset without `streaming=True`, or copy "
                "it (`datasets.Dataset.from_generator`)."
            )

    def _check_dataset(self, dataset: Any, name: str, objective: Objective) -> None:
        columns = columns_of(dataset)
        if columns is None:
            return  # a stream of unknown columns: the collator checks its first row
        if _is_preprocessed(dataset):
            needed = [ROLES[role].model_input for role in objective.roles]
            missing = [name for name in needed if name not in columns]
            if missing:
                raise ValueError(
                    f"The objective {objective.name!r} needs {missing} in `{name}`, whose columns are {columns}."
                )
        elif isinstance(self.data_collator, TripletCollator):
            try:
                check_columns(dataset, objective.columns)
            except ValueError as error:
                raise ValueError(f"`{name}` does not fit the objective {objective.name!r}: {error}") from error

    def look_at_data(self, **evaluated: Any) -> None:
        """
        Say what of the evaluation is trained on, and what stands in the training data twice, where that is known
        beforehand. `train` does so once.

        Args:
            evaluated (`Dataset` or `Benchmark`): What is evaluated besides, by name.
        """
        if self.overlap is not None:
            return
        self.overlap = []
        if not self.is_world_process_zero() or not isinstance(self.data_collator, TripletCollator):
            return
        parts = (
            self.eval_dataset if isinstance(self.eval_dataset, dict) else {"the validation data": self.eval_dataset}
        )
        benchmarks = {benchmark.title: benchmark for benchmark in self.benchmarks}
        self.overlap = find_overlap(self.train_dataset, {**parts, **benchmarks, **evaluated})
        for sentence in self.overlap:
            logger.warning(f"Evaluated on training data: {sentence}")
        processes = self.args.world_size if self.args.negatives_across_devices else 1
        if self.core.objective.masks_repeats:  # then they are no wrong answers
            return
        if (twins := describe_twins(self.train_dataset, self.args.train_batch_size * processes)) is not None:
            logger.warning(twins)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        hold_weights_in(self._bare(self.model), self.args.weights_dtype)  # somebody may have called `model.half()`
        self.look_at_data()
        return super().train(*args, **kwargs)

    # ---- Evaluation ----

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        if self._evaluating is not None:  # of several datasets `Trainer` evaluates one after the other, by this method
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._evaluating, self._benchmarks_due = metric_key_prefix, bool(self.benchmarks)
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._evaluating, self._benchmarks_due = None, False

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(*args, **kwargs)
        self.write_known()
        if output.label_ids is not None:
            output = output._replace(label_ids=kinds_in(output.label_ids))
        if self._benchmarks_due:  # once, and here, so that callbacks such as early stopping see the metrics
            self._benchmarks_due = False
            found = benchmark_metrics(self.benchmarks, self.core, self.processing_class, self.args)
            found = {f"{self._evaluating}_{name}": value for name, value in found.items()}
            output = output._replace(metrics={**(output.metrics or {}), **found})
        return output

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        with self._whole_evaluation(eval_dataset):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> torch.utils.data.DataLoader:
        with self._whole_evaluation(test_dataset):
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _whole_evaluation(self, dataset: Any) -> Iterator[None]:
        """Evaluation looks at all rows, and at the negatives whether or not the objective trains on them."""
        self._refuse_stream(dataset)
        if isinstance(dataset, str) and isinstance(self.eval_dataset, dict):
            dataset = self.eval_dataset[dataset]
        elif dataset is None:
            dataset = self.eval_dataset
        collator = self.data_collator
        if isinstance(collator, TripletCollator):
            names = columns_of(dataset)
            wanted = dict.fromkeys((*COLUMNS, *self.core.objective.columns))
            present = collator.columns if names is None else tuple(name for name in wanted if name in names)
            self.data_collator = EvaluationCollator(
                # Scores are of pairs, and of whole pictures.
                dataclasses.replace(
                    self.with_known_images(collator),
                    columns=present,
                    first_negative=True,
                    decode_size=None,
                    draw_captions=None,
                    draw_several=None,
                )
            )
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop_last

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, torch.Tensor | None]:
        inputs = self.with_known_outputs(self._prepare_inputs(inputs))
        rows = rows_in(inputs)
        usable = inputs.pop(USABLE, torch.ones(rows, dtype=torch.bool, device=self.args.device))
        usable = usable & self._own_rows(len(usable)).to(usable.device)
        kept = int(usable.sum())
        identities = inputs.pop(IDENTITIES, None)
        labels = labels_of(inputs, identities_of_tensors(inputs) if identities is None else identities)
        # Several negatives per row belong to the loss; the metrics compare a pair with its one negative.
        roles = [role for role in TRIPLET if len(inputs.get(ROLES[role].model_input, ())) == rows]
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self._evaluation_loss(model, first_rows(model_inputs(inputs), kept, rows))
        if prediction_loss_only:
            return loss.detach(), None, None
        embeddings = {role: spread(outputs[FIELDS[role]], usable) for role in roles}
        return loss.detach(), embeddings, spread(labels[:kept], usable, fill=BROKEN)

    def _own_rows(self, rows: int) -> torch.Tensor:
        """Which rows of a batch are not those that accelerate has filled the last one up with; they come first."""
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0:
            return torch.ones(rows, dtype=torch.bool)
        return torch.arange(rows) < state.remainder - self.args.process_index * rows

    def _evaluation_loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """The loss of the rows of all processes, the same on each, and the outputs. Of no rows it is NaN: left out."""
        rows = rows_in(inputs)
        if int(self.accelerator.reduce(torch.tensor(rows, device=self.args.device), "sum")) == 0:
            outputs = model(**inputs, return_loss=False, return_logits=False)
            return torch.full((), torch.nan, device=self.args.device), outputs
        loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if self.args.world_size > 1:
            # Where rows are shared, the mean over the processes is the loss; else each has one of its own rows.
            weight = 1 if self._shares_rows else rows
            total = self.accelerator.reduce(
                torch.stack([loss.float() * weight, loss.new_tensor(weight).float()]), "sum"
            )
            loss = total[0] / total[1]
        return loss, outputs

    # ---- Checkpoints ----

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # it is called in all processes
            save_logit_scale(self._bare(self.model), str(output_dir or self.args.output_dir))

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices only, as OpenCLIP: no biases, no norms, no class embedding and no `logit_scale`."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]


def release_wrappers(trainer: Trainer) -> None:
    """
    Let go of DDP's wrapper of the model: its reducer holds the process group, and where it outlives the group's end,
    the process may hang or abort when it exits.
    """
    trainer.accelerator.wait_for_everyone()
    trainer.model_wrapped = cast(nn.Module, trainer.model)
    trainer.accelerator.free_memory()


def end_training(trainer: Trainer) -> None:
    """Close the process group, so that gloo does not abort when the process exits."""
    release_wrappers(trainer)
    trainer.accelerator.end_training()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _require_rows(dataset: Any, name: str) -> None:
    if isinstance(dataset, dict):
        for key, part in dataset.items():
            _require_rows(part, f"{name}[{key!r}]")
    elif dataset is not None and has_length(dataset) and len(dataset) == 0:
        raise ValueError(f"`{name}` is empty.")


def _undecoded(dataset: Any) -> Any:
    if isinstance(dataset, dict):
        return {name: _undecoded(part) for name, part in dataset.items()}
    return undecoded(dataset) if isinstance(dataset, (Dataset, IterableDataset)) else dataset


def _is_preprocessed(dataset: Any) -> bool:
    return ROLES["image"].model_input in (columns_of(dataset) or ())
