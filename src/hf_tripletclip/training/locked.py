# SPDX-License-Identifier: Apache-2.0
"""What a trainer does with the cache of locked towers: whether there can be one, and filling it beforehand."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import default_data_collator

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.data.decoder_labels import LabelCollator
from hf_tripletclip.objectives import Objective
from hf_tripletclip.roles import ROLES
from hf_tripletclip.training.batches import TrainingCollator, model_inputs
from hf_tripletclip.training.teacher import Teacher
from hf_tripletclip.training.tower_cache import NAMES, TowerCache, tower_weights
from hf_tripletclip.training.towers import TOWERS

MOVING = ", and the teacher follows (`teacher_decay`)"


def check_some_is_locked(modes: Mapping[str, str], objective: Objective) -> None:
    """
    Check, without a model, that there is something for `cache_locked_towers` to keep.

    Args:
        modes (`Mapping[str, str]`): Tower -> how it trains, of [`TowerArguments`].
        objective ([`~hf_tripletclip.objectives.Objective`]): A teacher's towers never train, unless it moves.

    Raises:
        ValueError: There is nothing.
    """
    if "frozen" not in modes.values() and (objective.teacher_moves or not objective.needs_teacher):
        moving = MOVING if objective.teacher_moves else ""
        raise ValueError(
            f"`cache_locked_towers` keeps what towers put out that do not change, but both towers train{moving}: "
            "lock one (`--train_vision frozen`, `--train_text frozen`), or leave the cache out (of one of several "
            '`variants` by `"cache_locked_towers": null`).'
        )


def lockable_towers(core: Any, *, noise: bool = False, teacher: Teacher | None = None) -> list[str]:
    """
    The towers whose output can be kept.

    Args:
        core ([`TripletCLIPModel`]): The model that trains.
        noise (`bool`, defaults to `False`): Whether `neftune_noise_alpha` adds noise to token embeddings.
        teacher ([`Teacher`], *optional*): Whose towers never train, unless it moves.

    Raises:
        ValueError: There is none, or a locked one's output is another at each step.
    """
    training = {tower: how for tower in TOWERS if (how := _how_it_trains(core, tower)) is not None}
    locked = [tower for tower in TOWERS if tower not in training]
    changing = {tower: why for tower in locked if (why := _why_it_changes(core, tower, noise)) is not None}
    frozen = teacher is not None and not teacher.moves
    if changing or not (locked or frozen):
        listed = " and ".join(f"the {NAMES[tower]} tower {why}" for tower, why in (changing or training).items())
        listed += MOVING if teacher is not None and teacher.moves and not changing else ""
        raise ValueError(
            f"`cache_locked_towers` keeps what towers put out that do not change, but {listed}. Lock a tower "
            "(`--train_vision frozen`, `--train_text frozen`) without dropout and adapters, or leave the cache out."
        )
    return locked


def check_pooled_is_enough(objective: Objective, towers: Sequence[str]) -> None:
    """Raise `ValueError` where an objective needs more of a tower than its pooled output, which is what is kept."""
    needing = {"vision" if ROLES[role].is_image else "text" for role in objective.token_roles}
    if kept := [tower for tower in towers if tower in needing]:
        raise ValueError(
            f"`cache_locked_towers` keeps a tower's pooled output only, but the objective {objective.name!r} with its "
            f"settings {objective.settings} needs what the {' and the '.join(NAMES[tower] for tower in kept)} tower "
            "puts out for each patch or word: leave the cache out."
        )


def _how_it_trains(core: Any, tower: str) -> str | None:
    named = [(name, value.requires_grad) for name, value in getattr(core, TOWERS[tower][0]).named_parameters()]
    if not any(trains for _, trains in named):
        return None
    return "trains by adapters" if any("lora_" in name for name, _ in named) else "trains"


def _why_it_changes(core: Any, tower: str, noise: bool) -> str | None:
    module = getattr(core, TOWERS[tower][0])
    attention = getattr(core.config, f"{tower}_config").attention_dropout
    rate = max([attention, *(part.p for part in module.modules() if isinstance(part, nn.Dropout))])
    if any("lora_" in name for name, _ in module.named_parameters()):
        return "has adapters"
    if any(value.device.type == "meta" for value in module.parameters()):
        return "is not in memory as a whole"
    if noise and tower == "text":
        return "gets noise (`neftune_noise_alpha`), another at each step"
    return f"has a dropout of {rate:g}, so that its output is another at each step" if rate > 0 else None


def check_rows_stay(dataset: Any, name: str, rows: int = 8) -> None:
    """Raise `ValueError` where the first rows of a dataset are others at a second look, as with an augmentation."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return  # a stream, whose first look would be its only one
    for index in range(min(rows, len(dataset))):
        first, second = dataset[index], dataset[index]
        for column in first if isinstance(first, Mapping) else ():
            if not _same(first[column], second[column]):
                raise ValueError(
                    f"`cache_locked_towers` keeps one output for each image and caption, but {column!r} of row "
                    f"{index} of `{name}` is another at each look: take the augmentation out, or leave the cache out."
                )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, (Image.Image, torch.Tensor, np.ndarray)):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return bool(one == other)


def cache_of(trainer: Any) -> TowerCache | None:
    """
    The cache of a trainer's locked towers, as its arguments say, and that of its teacher, which gets it unless it
    moves: then the towers that are locked are its own too, and it takes what they put out.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains.

    Raises:
        OSError: The folder cannot be made.
        ValueError: No tower is locked, one's output changes at each step, or rows do.
    """
    args, teacher = trainer.args, trainer.teacher
    if args.cache_locked_towers is None:
        return None
    if trainer.is_deepspeed_enabled:
        raise ValueError("`cache_locked_towers` works in one process and with DDP, not with DeepSpeed: unset it.")
    collator = trainer.data_collator
    if (
        type(collator) not in (TripletCollator, LabelCollator, TensorCollator)
        and collator is not default_data_collator
    ):
        raise ValueError(
            f"`cache_locked_towers` keeps one output for each image and caption, and what a "
            f"{getattr(collator, '__name__', type(collator).__name__)} makes of them is not known: use a "
            "`TripletCollator`, or leave the cache out."
        )
    towers = lockable_towers(trainer.core, noise=bool(args.neftune_noise_alpha), teacher=teacher)
    check_pooled_is_enough(trainer.core.objective, towers)
    if trainer.train_dataset is not None:
        check_rows_stay(trainer.train_dataset, "train_dataset")
    try:
        os.makedirs(args.cache_locked_towers, exist_ok=True)
    except OSError as error:
        raise OSError(f"`cache_locked_towers` is {args.cache_locked_towers!r}, which is no folder: {error}") from error
    make = functools.partial(
        TowerCache,
        folder=args.cache_locked_towers,
        limit=int(args.cache_limit_gb * 1e9),
        precision=trainer.accelerator.mixed_precision,
        autocast=trainer.compute_loss_context_manager,
        batch_size=args.mini_batch_size or args.per_device_train_batch_size,
    )
    if teacher is not None and not teacher.moves:  # what moves puts out other things at each step
        teacher.towers = make(trainer.core if teacher.copy is None else teacher.copy, list(TOWERS))
    return make(trainer.core, towers)


def require_same_towers(cache: TowerCache, teacher: TowerCache) -> None:
    """Raise `ValueError` where a locked tower is not the teacher's, which gets its output too."""
    for tower in cache.towers:
        mine, other = (tower_weights(one.core, tower) for one in (cache, teacher))
        if mine.keys() != other.keys() or not all(torch.equal(mine[name], other[name]) for name in mine):
            raise ValueError(
                f"The locked {NAMES[tower]} tower is not the teacher's: the checkpoint is of another model. Start "
                "from that model, or leave `cache_locked_towers` out."
            )


def fill(trainer: Any, caches: Sequence[TowerCache]) -> int:
    """
    Look at each training row once, of which several processes share the work.

    Args:
        trainer ([`TripletCLIPTrainer`]): The trainer.
        caches (`Sequence[TowerCache]`): What to fill.

    Returns:
        How many images and captions went through a tower in this process.

    Raises:
        ValueError: The training data is a stream.
    """
    args, dataset, collator = trainer.args, trainer.train_dataset, trainer.data_collator
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError("A stream is not read beforehand: its first pass fills the cache of locked towers.")
    before = sum(sum(cache.computed.values()) for cache in caches)
    if isinstance(collator, TripletCollator):
        every = dataclasses.replace(collator, draw_several=None)  # also what is drawn in later passes
        collator = TrainingCollator(trainer.with_known_images(every))
    rows = range(args.process_index, len(dataset), args.world_size)
    loader: DataLoader[Any] = DataLoader(
        Subset(dataset, rows),
        batch_size=args.train_batch_size,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
    )
    for batch in tqdm(loader, desc="Locked towers", unit="batch", disable=args.disable_tqdm, leave=False):
        inputs = model_inputs(batch)
        for cache in caches:
            teaches = trainer.teacher is not None and cache is trainer.teacher.towers
            with trainer.teacher.as_before(trainer.model) if teaches else contextlib.nullcontext():
                inputs = cache.inputs(inputs)
    for cache in caches:
        cache.flush()
    trainer.accelerator.wait_for_everyone()
    return sum(sum(cache.computed.values()) for cache in caches) - before
