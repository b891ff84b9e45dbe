# SPDX-License-Identifier: Apache-2.0
"""The settings that determine the course of a run: a run with others may not go on from its checkpoints."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.data.contents import contents
from hf_tripletclip.data.schema import PARAPHRASE
from hf_tripletclip.training.zero import stage_of

RESUME_FILE = "resume.json"  # in a checkpoint


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Settings that a resumed run may change: where to write, what to log, what to measure and what to compute on. All
# others, also those of later versions, are compared.
FREE = _names(
    """
    output_dir run_name project report_to disable_tqdm debug skip_memory_metrics resume_from_checkpoint local_rank
    logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_level log_level_replica
    log_on_each_node include_num_input_tokens_seen trackio_space_id trackio_bucket_id trackio_static_space_id
    eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size prediction_loss_only
    eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
    bf16_full_eval fp16_full_eval do_train do_eval do_predict
    save_strategy save_steps save_total_limit save_only_model save_on_each_node enable_jit_checkpoint
    load_best_model_at_end ignore_data_skip restore_callback_states_from_checkpoint allow_changed_settings
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision hub_base_model
    use_cpu full_determinism auto_find_batch_size parallelism_config use_cache label_names remove_unused_columns
    average_tokens_across_devices length_column_name torch_empty_cache_steps
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    torch_compile torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    mini_batch_size negatives_across_devices key_exchange eval_benchmarks neighbours cache_locked_towers cache_limit_gb
    attn_implementation processor_name_or_path validation_split test_split max_eval_samples license
    scenes_validation_size scenes_test_size
    """
)
# A resumed run may change these too, but they change its course from there on, so the card lists the change.
LISTED = ("max_steps", "num_train_epochs")
# These are part of the checkpoint's optimizer, schedule or weights: a resumed run cannot change them.
FIXED = _names(
    """
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args optim_target_modules
    weight_decay adam_beta1 adam_beta2 adam_epsilon deepspeed fsdp fsdp_config state_dict_type
    objective objective_kwargs logit_scale_max retention_metric metric_for_best_model greater_is_better
    train_text train_vision train_projections train_logit_scale load_in_4bit
    lora_r lora_alpha lora_dropout lora_target_modules use_dora use_rslora
    model_config vocabulary start_weights trained_in
    """
)
# If one of these changes, a pass has other rows or another order, and a position in it means nothing.
OF_ORDER = _names(
    """
    per_device_train_batch_size world_size gradient_accumulation_steps seed data_seed dataloader_drop_last
    dataloader_num_workers accelerator_config train_sampling_strategy streaming train_split max_train_samples
    filters columns train_data batch_neighbours neighbour_rows
    """
)
NAMES = {
    "train_data": "the training data",
    "eval_data": "the validation data",
    "neighbour_rows": "the neighbours of the rows",
    "vocabulary": "the tokenizer's vocabulary",
    "start_weights": "the model that training starts from",
    "trained_in": "the precision of the weights",
}


@dataclass
class Difference:
    """A setting that has changed."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{NAMES.get(self.name, f'`{self.name}`')} was {_shown(self.was)} and is {_shown(self.now)}"


@dataclass
class Course:
    """What a checkpoint keeps of its run beside the weights."""

    settings: dict[str, Any]
    position: dict[str, Any] = field(default_factory=dict)  # in the data: `pass`, from 0, and `batches` of it
    changes: list[dict[str, Any]] = field(default_factory=list)  # `step`, and what changed there, as text

    def save(self, checkpoint: str | os.PathLike[str]) -> None:
        """Write it into a checkpoint folder."""
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        (Path(checkpoint) / RESUME_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: str | os.PathLike[str]) -> Course | None:
        """
        Read it from a checkpoint; `None` if a plain `Trainer` or an older version wrote the checkpoint.

        Raises:
            ValueError: The file cannot be read.
        """
        path = Path(checkpoint) / RESUME_FILE
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be read: the checkpoint is damaged.") from error


def of_scripts(*arguments: Any) -> dict[str, Any]:
    """The settings in a script's own dataclasses of arguments, as plain values by name."""
    found = {
        entry.name: _plain(getattr(part, entry.name))
        for part in arguments
        for entry in dataclasses.fields(part)
        if entry.name not in FREE
    }
    if isinstance(found.get("model_name_or_path"), str) and os.path.isdir(found["model_name_or_path"]):
        found["model_name_or_path"] = os.path.realpath(found["model_name_or_path"])
    return found


def settings_of(trainer: Any) -> dict[str, Any]:
    """
    Everything that determines the course of a run, as plain values by name. This reads the data.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains.
    """
    args, core = trainer.args, trainer.core
    found = {
        entry.name: _plain(getattr(args, entry.name))
        for entry in dataclasses.fields(args)
        if entry.name not in FREE and not entry.name.startswith("_")
    }
    found |= dict(trainer.run_settings)
    found.pop("num_train_epochs" if args.max_steps > 0 else "max_steps")
    found |= {"per_device_train_batch_size": args.train_batch_size, "world_size": args.world_size}
    objective = dict(core.config.objective_kwargs or {})
    across = objective.pop("negatives_across_devices", True)
    exchange = objective.pop("key_exchange", "gather")
    if args.world_size > 1:
        found["negatives_across_devices"] = across
        if across:
            found["key_exchange"] = exchange  # the ring adds up in another order
    found |= {"objective": core.objective.name, "objective_kwargs": _plain(objective)}
    found["logit_scale_max"] = getattr(core.config, "logit_scale_max", None)
    stream = isinstance(trainer.train_dataset, torch.utils.data.IterableDataset)
    if stream:  # its workers read different shards
        found["dataloader_num_workers"] = args.dataloader_num_workers
    if trainer.is_fsdp_enabled:  # the launcher may have asked for it
        kind = trainer.accelerator.state.fsdp_plugin.state_dict_type
        found |= {"fsdp": True, "state_dict_type": kind.name}  # of which kind the files of the checkpoint are
    if trainer.is_deepspeed_enabled and not args.deepspeed:
        found["deepspeed"] = f"ZeRO-{stage_of(trainer)}"
    found["rows_by_process"] = stream or not across or _has_dropout(trainer.model)
    if _has_dropout(trainer.model):
        found["mini_batch_size"] = args.mini_batch_size
    model: Any = trainer.model
    trained = {str(value.dtype).removeprefix("torch.") for value in model.parameters() if value.requires_grad}
    found["trained_in"] = ", ".join(sorted(trained))
    found["train_data"] = contents(trainer.train_dataset, _columns(trainer))
    if trainer.neighbours is not None:
        found["neighbour_rows"] = trainer.neighbours.digest()
    if args.retention_metric is not None or args.metric_for_best_model is not None:  # evaluation decides
        found["eval_benchmarks"] = _plain(args.eval_benchmarks)
        evals = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {"": trainer.eval_dataset}
        found["eval_data"] = "; ".join(contents(part) for part in evals.values() if part is not None)
    if trainer.teacher is not None or unwrap_peft_model(model) is not model:
        found["start_weights"] = _of_weights(unwrap_peft_model(model))
    if (tokenizer := getattr(trainer.processing_class, "tokenizer", None)) is not None:
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
        digest = hashlib.sha256(vocabulary.encode()).hexdigest()[:16]
        found["vocabulary"] = f"{len(tokenizer)} tokens, {digest}"
    return found


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[Difference], list[Difference]]:
    """
    What differs between a checkpoint's settings and a run's.

    Args:
        was, now (`Mapping[str, Any]`): From [`settings_of`]. Settings that only one of them has are not compared.

    Returns:
        Differences with which a run may not go on, and differences that are allowed but belong on the card.
    """
    # The same data may lie elsewhere. Of a stream the pictures beside it are not compared, so their folder is.
    ignored = {"rows_by_process", "dataset_name_or_path"} | (set() if now.get("streaming") else {"images"})
    found = [
        Difference(name, was[name], now[name])
        for name in was
        if name in now and was[name] != now[name] and name not in ignored
    ]
    names = {one.name for one in found}
    if "train_data" in names and was.get("dataset_name_or_path") != now.get("dataset_name_or_path"):
        found.insert(0, Difference("dataset_name_or_path", was["dataset_name_or_path"], now["dataset_name_or_path"]))
    listed = set(LISTED)
    batch = ("per_device_train_batch_size", "world_size")
    if not now.get("rows_by_process") and was[batch[0]] * was[batch[1]] == now[batch[0]] * now[batch[1]]:
        listed |= set(batch)  # the same rows in every step
    # A best metric that only one of the two runs asks for is no difference.
    of_best = {"metric_for_best_model", "greater_is_better"} if _no_best(was) or _no_best(now) else set()
    found = [one for one in found if one.name not in of_best]
    return [one for one in found if one.name not in listed], [one for one in found if one.name in listed]


def refusal(checkpoint: str, found: Sequence[Difference]) -> str:
    """Why a run does not go on from a checkpoint, and what to do."""
    fixed = [one for one in found if one.name in FIXED]
    listed = "; ".join(map(str, found[:8])) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
    text = f"{checkpoint} was trained with other settings: {listed}. Resume with its settings, or "
    if fixed:
        names = ", ".join(NAMES.get(one.name, f"`{one.name}`") for one in fixed[:3])
        return (
            f"{text}start another run in another `output_dir`: a checkpoint's optimizer, schedule and weights have "
            f"{names} in them, so this cannot change on the way."
        )
    return (
        f"{text}go on with the new ones by `--allow_changed_settings` (the card then lists them), or start another "
        "run in another `output_dir`."
    )


def describe_changes(changes: Sequence[Mapping[str, Any]]) -> str:
    """Sentences of a card on settings that changed on the way, with a space before them; empty if none did."""
    return "".join(f" After step {entry['step']} it was resumed: {'; '.join(entry['changes'])}." for entry in changes)


def _no_best(settings: Mapping[str, Any]) -> bool:
    return settings.get("metric_for_best_model") is None


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    if isinstance(value, enum.Enum):
        value = value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and ", " in value else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _columns(trainer: Any) -> Sequence[str] | None:
    """The columns that the objective reads; `None`, which means all, if the rows are tensors."""
    named = getattr(trainer.train_dataset, "column_names", None) or ()
    objective = trainer.core.objective
    columns = (*objective.columns, *([PARAPHRASE] if objective.draws_captions and PARAPHRASE in named else []))
    return columns if set(columns) <= set(named) and not isinstance(trainer.train_dataset, IterableDataset) else None


def _has_dropout(model: Any) -> bool:
    core = unwrap_peft_model(model)
    return any(core.dropout(tower) > 0 for tower in ("text", "vision"))


@torch.no_grad()
def _of_weights(model: nn.Module) -> str:
    """A digest of a part of every tensor of the model without its adapters."""
    found = hashlib.sha256()
    for name, value in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            continue
        flat = value.detach().flatten()
        some = flat[:: max(len(flat) // 512, 1)]
        found.update(name.encode())
        found.update(some.to("cpu").contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
