# SPDX-License-Identifier: Apache-2.0
"""`TripletCLIPTrainingArguments`: all that `TrainingArguments` has, and what contrastive training needs beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch.distributed as dist
from transformers import TrainingArguments

from hf_tripletclip.objectives.exchange import EXCHANGES
from hf_tripletclip.training.argument_checks import check_numbers, check_settings
from hf_tripletclip.training.zero import check_package, load_whole_models

WEIGHTS_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class TripletCLIPTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`TripletCLIPTrainer`].

    Args:
        objective (`str`, *optional*):
            Training objective, one of [`~hf_tripletclip.objectives.available_objectives`]. `None` keeps the one that
            the model's config names.
        objective_kwargs (`dict` or JSON `str`, *optional*):
            Keyword arguments of the objective.
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the rows of all processes are each other's negatives, with gradients. W processes with batches of
            B then train exactly as one process with a batch of W * B.
        key_exchange (`str`, *optional*):
            How processes share the keys of the loss: `"gather"`, each has them all; `"ring"`, they go from process to
            process, which takes less memory; or `"auto"`, the ring if all keys take more than 256 MiB. The result is
            the same up to rounding. `None` is the objective's own setting, `"gather"` by default.
        mini_batch_size (`int`, *optional*):
            Gradient caching (Gao et al. 2021, arXiv 2101.06983): rows that go through the towers at a time, per
            device. Memory is that of the mini-batch, loss and gradients are those of the whole batch, the towers'
            forward runs twice. It need not divide the batch. `None` turns it off. Note that
            `gradient_accumulation_steps` does *not* enlarge a contrastive batch; this does.
        cache_locked_towers (`str`, *optional*):
            A folder, which runs may share, for what towers put out that do not train: each image and caption goes
            through a locked tower once, and then is not even decoded. A frozen teacher uses it too. A
            locked tower with dropout or adapters is refused, and so is data that changes from look to look.
        cache_limit_gb (`float`, defaults to 10.0):
            Gigabytes (10^9 bytes) that this folder may take, whoever filled it; what is beyond is computed each time.
        weights_dtype (`str`, defaults to `"float32"`):
            What the weights are held in while they are trained, and saved as, whatever the model was loaded in:
            `float32`, or, if memory is worth more than the result, `bfloat16` or `float16`. In half precision a
            small step changes most weights not at all; for speed give `bf16`, which computes in half precision from
            weights in float32. Weights of 4 bits stay what they are.
        batch_neighbours (`int`, defaults to 0):
            Fill batches with nearest neighbours: beside each row that is drawn, so many of its neighbours that
            `tripletclip mine` found. NegCLIP has 1. Each row still comes once in a pass.
        neighbours (`str`, *optional*):
            The folder that `tripletclip mine` wrote, or the id of the Hub dataset that was pushed from it.
        max_negatives (`int`, *optional*):
            At most so many hard negatives of a row in a batch, drawn anew in each pass over the data: the same in any
            number of workers and processes, and when a run goes on. A negative caption is drawn with its image. By
            default all.
        max_positives (`int`, *optional*):
            Likewise of a row's paraphrases, and of its dense captions.
        logit_scale_max (`float`, *optional*):
            Bound on `exp(logit_scale)`, kept after every step; defaults to the model's config's, 100.
        eval_benchmarks (`dict` or JSON `str`, *optional*):
            Benchmarks that each evaluation also runs: name -> its settings, or where its data is, such as
            `{"sugarcrepe": {"annotations": "sugar-crepe/data", "images": "val2017"}, "winoground": "winoground"}`.
            Their main metrics are logged as `eval_<benchmark>_<metric>`, which `metric_for_best_model` may name.
        retention_metric (`str`, *optional*):
            A metric of what the model knew before training, such as `zeroshot_top1` of `eval_benchmarks`: it is also
            measured before the first step, and training stops when it has fallen by more than `max_retention_loss`.
            The model then gets back the weights of the last evaluation within that bound.
        max_retention_loss (`float`, defaults to 0.02): How much of `retention_metric` may be lost.
        hub_base_model (`str`, *optional*):
            Hub id of the model that training starts from, if it starts from a directory: what the model's card
            names, and what an adapter that is pushed is opened with.
        allow_changed_settings (`bool`, defaults to `False`):
            Whether a run may go on from a checkpoint of other settings, such as other data or another batch size, from
            there on. The card tells them. What is in the checkpoint itself, such as the learning rate, cannot change.
        max_grad_norm (`float`, *optional*, defaults to 1.0):
            As in `TrainingArguments`; `None` and 0 clip nothing.
        remove_unused_columns (`bool`, defaults to `False`):
            As in `TrainingArguments`, but off: the collator needs the raw columns.
        dataloader_drop_last (`bool`, defaults to `True`):
            As in `TrainingArguments`, but on: a short last batch would have fewer negatives than the others.
        ddp_find_unused_parameters (`bool`, *optional*, defaults to `False`):
            As in `TrainingArguments`, but off: every parameter of a CLIP model takes part in the loss.
        bf16 (`bool`, *optional*):
            As in `TrainingArguments`. Left out, it is off on a GPU, and on on a CPU that computes in bfloat16
            (AVX512-BF16 or AMX), if a tower is 512 wide or wider and its weights are held in float32: a step of
            ViT-B/32 takes less than half the time then. [`TripletCLIPTrainer`] decides it, and says so.
        ddp_timeout (`int`, defaults to 1800):
            As in `TrainingArguments`, also on CPUs: seconds after which a process that waits for another ends.

    Raises:
        ValueError: What should be a number is none; a number is not finite or out of range; or a setting of
            `TrainingArguments` would be without effect here, such as `label_smoothing_factor`.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "objective_kwargs", "eval_benchmarks"]  # noqa: RUF012

    objective: str | None = field(
        default=None,
        metadata={
            "help": "Training objective. Default: that of the model's config; in a training script, tripletclip."
        },
    )
    objective_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of the objective, as JSON."}
    )
    negatives_across_devices: bool = field(
        default=True, metadata={"help": "Let the rows of all processes be each other's negatives, with gradients."}
    )
    key_exchange: str | None = field(
        default=None,
        metadata={
            "help": "How processes share the keys of the loss: gather, ring (less memory) or auto. Default: gather."
        },
    )
    mini_batch_size: int | None = field(
        default=None,
        metadata={"help": "Gradient caching: rows per device that go through the towers at a time (less memory)."},
    )
    cache_locked_towers: str | None = field(
        default=None,
        metadata={"help": "Folder for what locked towers put out: each image and caption goes through them once."},
    )
    cache_limit_gb: float = field(
        default=10.0, metadata={"help": "Gigabytes that the folder `cache_locked_towers` may take."}
    )
    weights_dtype: str = field(
        default="float32",
        metadata={"help": "What the weights are held in: float32; or bfloat16 or float16, which lose small steps."},
    )
    batch_neighbours: int = field(
        default=0, metadata={"help": "Put so many nearest neighbours beside each row of a batch; 1 as NegCLIP."}
    )
    neighbours: str | None = field(
        default=None,
        metadata={"help": "What `tripletclip mine` wrote, a folder or Hub id. Default: the dataset trained on."},
    )
    max_negatives: int | None = field(
        default=None,
        metadata={"help": "At most so many hard negatives of a row in a batch, drawn in each pass. Default: all."},
    )
    max_positives: int | None = field(
        default=None,
        metadata={"help": "Likewise of a row's paraphrases, and of its dense captions. Default: all."},
    )
    logit_scale_max: float | None = field(
        default=None, metadata={"help": "Bound on exp(logit_scale) in training. Default: that of the model's config."}
    )
    eval_benchmarks: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Benchmarks that each evaluation runs, as JSON: name -> settings, or where its data is."},
    )
    retention_metric: str | None = field(
        default=None,
        metadata={"help": "Stop when this metric of an evaluation, such as zeroshot_top1, has fallen too far."},
    )
    max_retention_loss: float = field(
        default=0.02, metadata={"help": "How much of `retention_metric` may be lost, in its own unit."}
    )
    hub_base_model: str | None = field(
        default=None,
        metadata={"help": "Hub id of the model that training starts from, if it starts from a directory."},
    )
    allow_changed_settings: bool = field(
        default=False,
        metadata={"help": "Go on from a checkpoint of other settings, if that is possible; the card tells them."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns that `forward` does not name."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last, short batch of an epoch."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Let DDP search for parameters without a gradient; CLIP has none."}
    )

    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Compute in bfloat16. Default: no; on a CPU that has it, yes for towers of 512 and wider, which "
            "then take half the time.",
            "nargs": "?",
            "const": True,
        },
    )
    # None tells what was left out from what was turned off.
    do_train: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Training is what this does."}
    )
    do_eval: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Follows from `eval_strategy`."}
    )

    @property
    def objective_arguments(self) -> dict[str, Any]:
        """`objective_kwargs` as a dict."""
        return self.objective_kwargs if isinstance(self.objective_kwargs, dict) else {}

    @property
    def benchmark_settings(self) -> dict[str, Any]:
        """`eval_benchmarks` as a dict."""
        return self.eval_benchmarks if isinstance(self.eval_benchmarks, dict) else {}

    def __post_init__(self) -> None:
        if self.max_grad_norm is None:
            self.max_grad_norm = 0.0  # `Trainer` documents `None`, and compares it with 0
        check_numbers(self)
        check_package(self)
        if self.do_eval is False and str(getattr(self.eval_strategy, "value", self.eval_strategy)) != "no":
            raise ValueError("`do_eval` is false, but `eval_strategy` asks for evaluations: leave one out.")
        try:
            super().__post_init__()
        except ValueError as error:
            if "bf16/gpu" not in str(error):
                raise
            raise ValueError(
                "`bf16` is set, and there is no GPU that has it: turn it off (`--bf16 false`), or train on the CPU in "
                "bfloat16 (`--use_cpu`)."
            ) from error
        if self.deepspeed_plugin is not None:
            load_whole_models()
        check_numbers(self)  # of mappings too, which may have been JSON
        check_settings(self)
        self.do_train = True
        accelerator_config: Any = self.accelerator_config
        if accelerator_config.dispatch_batches is None:
            # Streams: each process reads its own rows, for batches are as long as their longest caption and rank 0
            # could not send out batches of different shapes.
            accelerator_config.dispatch_batches = False
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # torch would warn that there is nothing to pin for
        if self.objective_kwargs is not None and not isinstance(self.objective_kwargs, dict):
            raise ValueError(f"`objective_kwargs` is {self.objective_kwargs!r}: give a JSON object.")
        if self.eval_benchmarks is not None and not isinstance(self.eval_benchmarks, dict):
            raise ValueError(f"`eval_benchmarks` is {self.eval_benchmarks!r}: give a JSON object, name -> settings.")
        if self.retention_metric is not None:
            if self.eval_strategy == "no":
                raise ValueError("`retention_metric` is watched at evaluations: give `eval_strategy`.")
            self.eval_on_start = True  # what may be lost from
        elif self.max_retention_loss != type(self).max_retention_loss:
            raise ValueError("`max_retention_loss` bounds `retention_metric`: name one, such as zeroshot_top1.")
        if self.cache_limit_gb <= 0:
            raise ValueError(f"`cache_limit_gb` is {self.cache_limit_gb:g}: give more than 0.")
        if self.cache_locked_towers is None and self.cache_limit_gb != type(self).cache_limit_gb:
            raise ValueError("`cache_limit_gb` bounds the folder `cache_locked_towers`: name one.")
        if self.cache_locked_towers is not None and not str(self.cache_locked_towers).strip():
            raise ValueError("`cache_locked_towers` is empty: name a folder, or leave it out.")
        if self.logit_scale_max is not None and self.logit_scale_max < 1:
            raise ValueError(f"`logit_scale_max` is {self.logit_scale_max}: give at least 1.")
        if self.key_exchange is not None:
            if self.key_exchange not in EXCHANGES:
                raise ValueError(f"`key_exchange` is {self.key_exchange!r}: give {', '.join(EXCHANGES)}.")
            if not self.negatives_across_devices:
                raise ValueError(
                    "`key_exchange` says how processes share rows, and `negatives_across_devices` is false: drop one."
                )
        if self.weights_dtype not in WEIGHTS_DTYPES:
            raise ValueError(f"`weights_dtype` is {self.weights_dtype!r}: give {', '.join(WEIGHTS_DTYPES)}.")
        if self.fp16 and self.weights_dtype == "float16":
            raise ValueError(
                "`fp16` computes in float16 from weights in float32: leave out `weights_dtype`, or leave out `fp16`."
            )

    @cached_property
    def _setup_devices(self) -> Any:
        # `TrainingArguments` passes `ddp_timeout` on for GPUs only; the group that is there already is used.
        cpu = self.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        launched = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
        if cpu and launched and int(os.environ["WORLD_SIZE"]) > 1 and not dist.is_initialized():
            dist.init_process_group(self.ddp_backend or "gloo", timeout=self.ddp_timeout_delta)
        setup: Any = TrainingArguments._setup_devices
        return setup.func(self)
