# SPDX-License-Identifier: Apache-2.0
"""What a trainer is given: completed by defaults, and checked before training starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset, LargeList, List
from torch import nn
from transformers.trainer_utils import has_length, unwrap_peft_model
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from hf_tripletclip.data import TripletCollator, check_columns
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import CAPTION
from hf_tripletclip.data.tokenizer import FIXED_LENGTH_PROCESSORS
from hf_tripletclip.layouts.adapters import LOGIT_BIAS, scale_of
from hf_tripletclip.layouts.architectures import supported
from hf_tripletclip.layouts.processor import LEGACY, check_processor
from hf_tripletclip.modeling import TripletMixin
from hf_tripletclip.objectives import Objective
from hf_tripletclip.roles import ROLES
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.draws import collator_with_draws
from hf_tripletclip.training.evaluation import check_metric_name, compositional_metrics
from hf_tripletclip.training.sharding import check_sharding
from hf_tripletclip.training.towers import hold_weights_in
from hf_tripletclip.training.training_batches import columns_of
from hf_tripletclip.training.zero import check_zero
from hf_tripletclip.utils.devices import computes_in_bfloat16

logger = logging.get_logger(__name__)

# The hidden size of a tower from which bfloat16 pays on a CPU: it is no faster at 128, and 2.2 times at 512 to 768.
WIDE = 512


# ---- Model, objective and collator ----


def set_up_model(model: nn.Module, args: TripletCLIPTrainingArguments, compute_loss: Any = None) -> TripletMixin:
    """
    Give a model the objective, the bound on `logit_scale` and the precision that the arguments name, in place.

    Args:
        model ([`TripletCLIPModel`] or `PeftModel`): The model.
        args ([`TripletCLIPTrainingArguments`]): The arguments.
        compute_loss (`Callable`, *optional*): `compute_loss_func` of `Trainer`, which is refused.

    Returns:
        [`TripletMixin`]: The model, without a `PeftModel` around it.

    Raises:
        TypeError: The model is of another type.
        ValueError: The objective or one of its settings is unknown, or another loss is given.
    """
    core = unwrap_peft_model(model)
    if not isinstance(core, TripletMixin):
        raise TypeError(
            f"TripletCLIPTrainer trains a TripletCLIPModel or another model of this package, not a "
            f"{type(core).__name__}. `AutoTripletModel.from_pretrained` opens every checkpoint of the types "
            f"{supported()}."
        )
    if compute_loss is not None:
        raise ValueError("The loss is the objective's: give the model one of your own with `set_objective` instead.")
    # The model's own objective keeps its settings, but the arguments decide whether processes share rows.
    settings = dict(core.config.objective_kwargs or {}) if args.objective is None else {}
    settings.pop("negatives_across_devices", None)
    settings |= args.objective_arguments
    if not args.negatives_across_devices:
        settings["negatives_across_devices"] = False
    if args.key_exchange is not None:
        settings["key_exchange"] = args.key_exchange
    core.set_objective(args.objective or core.objective.name, **settings)
    hold_weights_in(model, args.weights_dtype)
    bias = scale_of(core).get(LOGIT_BIAS)
    core.objective.check_bias(bias)
    if bias is not None and not core.objective.uses_bias:
        logger.warning(
            f"The objective `{core.objective.name}` makes no use of `logit_bias`. A {type(core).__name__} has learned "
            f"by a sigmoid, with it: `--objective {core.config_class.objective}` goes on so."
        )
    if bias is not None and not core.objective.uses_bias and bias.requires_grad:
        bias.requires_grad_(False)  # it cancels in a softmax, and would have no gradient
        core.bias_is_idle = True
    elif bias is not None and core.objective.uses_bias and core.bias_is_idle:
        bias.requires_grad_(True)  # the trainer before this one had no use for it
        core.bias_is_idle = False
    if core.may_leave_weights_unused and args.ddp_find_unused_parameters is False:
        args.ddp_find_unused_parameters = True
    choose_precision(core, args)
    if args.logit_scale_max is not None:
        core.config.logit_scale_max = args.logit_scale_max
    return core


def choose_precision(core: TripletMixin, args: TripletCLIPTrainingArguments) -> None:
    """Turn `bf16` on or off if the arguments leave that open, see [`TripletCLIPTrainingArguments`]."""
    if args.bf16 is not None:
        return
    if args.deepspeed_plugin is not None:  # the launcher's choice is DeepSpeed's, and transformers compares the two
        args.bf16 = args.mixed_precision == "bf16"
        return
    widths = [getattr(config, "hidden_size", 0) for config in (core.config.text_config, core.config.vision_config)]
    args.bf16 = (
        args.device.type == "cpu"
        and args.mixed_precision == "no"
        and args.weights_dtype == "float32"
        and max(widths) >= WIDE
        and computes_in_bfloat16()
    )
    if args.bf16:
        args.mixed_precision = "bf16"
        logger.info("This CPU computes in bfloat16, and so does training: `--bf16 false` turns it off.")


def use_one_gpu(args: TripletCLIPTrainingArguments) -> None:
    """Let a single process use the first GPU only, with a warning: `Trainer` would split each batch among all."""
    if args.n_gpu > 1:
        logger.warning(
            f"{args.n_gpu} GPUs are visible but this is one process: only the first is used. "
            "Start with `accelerate launch` to use them all."
        )
        args._n_gpu = 1


def check_processors(model: TripletMixin, *candidates: Any) -> int | None:
    """
    Check the processors, and those of collators, that a trainer is given.

    Returns:
        `int`, *optional*: The id of the token at which the text tower pools, if it is known.

    Raises:
        ValueError: A processor is that of another model.
    """
    at: Any = getattr(model.text_model, "eos_token_id", None)  # `None` if the tower does not pool at a token
    end = at if isinstance(at, int) and at != LEGACY else None
    for candidate in candidates:
        processor = getattr(candidate, "processor", candidate)  # a collator has one
        if getattr(processor, "tokenizer", None) is not None:
            end = check_processor(model, processor)
    return end


def set_up_data(
    core: TripletMixin,
    args: TripletCLIPTrainingArguments,
    collator: Any,
    train_dataset: Any,
    eval_dataset: Any,
    processing_class: Any,
) -> tuple[Any, Any, Any]:
    """
    Complete the arguments of a trainer on data; they are described there.

    Returns:
        The collator: the one that was given, or the one that fits the rows, with what the objective and the arguments
        let it draw. Then the two datasets; if a [`TripletCollator`] reads them, their images stay undecoded, so that
        it decodes them itself and reports broken ones.

    Raises:
        ValueError: A processor is that of another model, pads captions otherwise or makes pictures of another size, a
            dataset is empty, or something is to be drawn that the rows do not have.
    """
    end = check_processors(core, processing_class, collator)
    _require_rows(train_dataset, "train_dataset")
    _require_rows(eval_dataset, "eval_dataset")
    if collator is None:
        if _is_preprocessed(train_dataset if train_dataset is not None else eval_dataset):
            collator = TensorCollator(end, core.max_text_length, core.text_length_is_fixed)
        else:
            collator = TripletCollator(
                processing_class, columns=core.objective.columns, max_length=core.max_text_length
            )
    if isinstance(collator, TripletCollator):
        _check_padding(core, collator)
    collator = core.objective.prepare_collator(collator)
    collator = collator_with_draws(core.objective, collator, train_dataset, args)
    if isinstance(collator, TripletCollator):
        train_dataset, eval_dataset = _undecoded(train_dataset), _undecoded(eval_dataset)
    return collator, train_dataset, eval_dataset


def _check_padding(core: TripletMixin, collator: TripletCollator) -> None:
    """Check that captions are padded as the text tower has learned them: by the class of the processor."""
    if collator.fixed_length == core.text_length_is_fixed:
        return
    learned = "to one length and without a mask" if core.text_length_is_fixed else "to the longest and with a mask"
    wanted = FIXED_LENGTH_PROCESSORS[0] if core.text_length_is_fixed else "VisionTextDualEncoderProcessor"
    raise ValueError(
        f"A {type(core).__name__} takes captions that are padded {learned}, and a "
        f"{type(collator.processor).__name__} is for others: put the image processor and the tokenizer that belong to "
        f"the model into a `{wanted}`."
    )


def _undecoded(dataset: Any) -> Any:
    if isinstance(dataset, dict):
        return {name: _undecoded(part) for name, part in dataset.items()}
    return undecoded(dataset) if isinstance(dataset, (Dataset, IterableDataset)) else dataset


def _require_rows(dataset: Any, name: str) -> None:
    if isinstance(dataset, dict):
        for key, part in dataset.items():
            _require_rows(part, f"{name}[{key!r}]")
    elif dataset is not None and has_length(dataset) and len(dataset) == 0:
        raise ValueError(f"`{name}` is empty.")


def _is_preprocessed(dataset: Any) -> bool:
    return ROLES["image"].model_input in (columns_of(dataset) or ())


@contextlib.contextmanager
def temporarily(owner: Any, **values: Any) -> Iterator[None]:
    """Give an object other attributes inside this context."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# ---- Checks of a trainer ----


def check_decoder(trainer: Any) -> None:
    """
    Check that the matrix in front of an objective's decoder can be trained.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains.

    Raises:
        ValueError: DeepSpeed is used, or the given optimizer does not have the matrix.
    """
    core = trainer.core
    if not core.objective.state_roles:
        return
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            f"The objective {core.objective.name!r} with a decoder trains in one process and with DDP, not "
            "with DeepSpeed, which keeps the weights of a run in its own way: leave `decoder` out, or use DDP."
        )
    if trainer.optimizer is not None:
        known = {id(value) for group in trainer.optimizer.param_groups for value in group["params"]}
        if id(core.decoder_input.weight) not in known:
            raise ValueError(
                "The given optimizer does not have the matrix of the objective's decoder, which would not be "
                "trained: call `model.set_objective` before the optimizer is made, or leave `optimizers` out."
            )


def check_trainer(trainer: Any) -> None:
    """
    Check that a trainer's arguments, data and objective fit each other.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains.

    Raises:
        ValueError: They do not; the message says what to change.
    """
    args, objective = trainer.args, trainer.core.objective
    raw = isinstance(trainer.data_collator, TripletCollator)
    if args.benchmark_settings and trainer.processing_class is None:
        raise ValueError("`eval_benchmarks` need the model's processor: give it as `processing_class`.")
    check_sharding(trainer)
    check_zero(trainer)
    if args.mini_batch_size is not None and trainer.is_deepspeed_enabled:
        raise ValueError(
            "Gradient caching (`mini_batch_size`) works in one process and with DDP, not with DeepSpeed: unset "
            "it, or use `gradient_checkpointing` to save memory there."
        )
    if objective.needs_neighbours and trainer.train_dataset is not None and not args.batch_neighbours:
        raise ValueError(
            f"The objective {objective.name!r} learns from batches of nearest neighbours: train on what "
            "`tripletclip mine` wrote, with `batch_neighbours`, such as 1."
        )
    if raw and args.remove_unused_columns:
        raise ValueError("`remove_unused_columns` would drop the columns that rows are made of: leave it out.")
    if args.train_sampling_strategy == "group_by_length" and args.length_column_name not in (
        columns_of(trainer.train_dataset) or ()
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
    if trainer.train_dataset is not None:
        _check_dataset(trainer.train_dataset, "train_dataset", objective, raw=raw)
        _check_batches(args, objective, trainer.train_dataset, raw=raw)
    evals = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
    for name, dataset in evals.items():
        refuse_stream(dataset, args)
        if dataset is not None:
            _check_dataset(dataset, f"eval_dataset[{name!r}]" if name else "eval_dataset", objective, raw=raw)


def _check_batches(args: TripletCLIPTrainingArguments, objective: Objective, dataset: Any, *, raw: bool) -> None:
    caption = (getattr(dataset, "features", None) or {}).get(CAPTION)
    if raw and isinstance(caption, (List, LargeList)) and not objective.draws_captions:
        raise ValueError(
            f"`{CAPTION}` of `train_dataset` is a list, and the objective {objective.name!r} takes one per "
            "row: make a row of each, or train with `laclip`, which draws one in each pass."
        )
    batch = args.train_batch_size
    if batch * (args.world_size if args.negatives_across_devices else 1) < 2:
        raise ValueError("A contrastive loss needs at least two rows in a batch: raise `per_device_train_batch_size`.")
    needed = batch * args.world_size
    rows = len(dataset) if has_length(dataset) else None
    if rows is not None and args.dataloader_drop_last and rows < needed:
        raise ValueError(
            f"`train_dataset` has {rows} rows, fewer than one batch of {needed}: lower `per_device_train_batch_size`."
        )
    left = (rows or 0) % needed
    if not raw and not args.dataloader_drop_last and 0 < left < args.world_size:
        raise ValueError(
            f"The last batch of `train_dataset` has {left} of its {rows} rows, too few for "
            f"{args.world_size} processes: turn `dataloader_drop_last` on, or change the batch size."
        )


def _check_dataset(dataset: Any, name: str, objective: Objective, *, raw: bool) -> None:
    columns = columns_of(dataset)
    if columns is None:
        return  # a stream of unknown columns: the collator checks its first row
    if _is_preprocessed(dataset):
        needed = [ROLES[role].model_input for role in objective.roles]
        if missing := [name for name in needed if name not in columns]:
            raise ValueError(
                f"The objective {objective.name!r} needs {missing} in `{name}`, whose columns are {columns}."
            )
    elif raw:
        try:
            check_columns(dataset, objective.columns)
        except ValueError as error:
            raise ValueError(f"`{name}` does not fit the objective {objective.name!r}: {error}") from error


def refuse_stream(dataset: Any, args: TripletCLIPTrainingArguments) -> None:
    """
    Raise `ValueError` if several processes would evaluate on a stream. Each reads its own part of it: some would wait
    for others, or rows would count twice.
    """
    if args.world_size > 1 and isinstance(dataset, torch.utils.data.IterableDataset):
        raise ValueError(
            "Several processes cannot evaluate on a stream: load that dataset without `streaming=True`, or copy "
            "it (`datasets.Dataset.from_generator`)."
        )


def check_best_metric(trainer: Any) -> None:
    """
    Raise `ValueError` if no evaluation of a trainer gives `metric_for_best_model`. The names that a user's own
    `compute_metrics` gives are not known before it runs, so they are not checked.
    """
    args, compute = trainer.args, getattr(trainer.compute_metrics, "args", ())
    metric = args.metric_for_best_model
    if metric is None or args.eval_strategy == "no" or compositional_metrics not in compute:
        return
    name = metric.removeprefix("eval_")
    if isinstance(trainer.eval_dataset, dict):  # its metrics have the dataset's name before them
        key = next((key for key in trainer.eval_dataset if name.startswith(f"{key}_")), None)
        name = name if key is None else name.removeprefix(f"{key}_")
    given: Any = (trainer.benchmarks, trainer.core, trainer.processing_class)
    check_metric_name(name, *given, flag="metric_for_best_model", further=("loss", "tie_rate"))
