# SPDX-License-Identifier: Apache-2.0
"""The cache of a trainer's locked towers: whether there can be one, and what it does to batches."""

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
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import default_data_collator

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.collator import TensorCollator
from hf_tripletclip.data.decoder_labels import LabelCollator
from hf_tripletclip.objectives import Objective
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.roles import ROLES
from hf_tripletclip.training.teacher import Teacher
from hf_tripletclip.training.tower_cache import NAMES, TowerCache, tower_weights
from hf_tripletclip.training.towers import TOWERS
from hf_tripletclip.training.training_batches import CONTENTS, TrainingCollator, model_inputs

MOVING = ", and the teacher follows (`teacher_decay`)"


def check_some_is_locked(modes: Mapping[str, str], objective: Objective) -> None:
    """
    Check, without a model, that `cache_locked_towers` has something to keep.

    Args:
        modes (`Mapping[str, str]`): Tower -> how it trains, from [`TowerArguments`].
        objective ([`~hf_tripletclip.objectives.Objective`]): It may have a teacher, whose towers never train unless it
            moves.

    Raises:
        ValueError: It has nothing to keep.
    """
    if "frozen" not in modes.values() and (objective.teacher_moves or not objective.needs_teacher):
        moving = MOVING if objective.teacher_moves else ""
        raise ValueError(
            f"`cache_locked_towers` keeps the outputs of towers that do not change, but both towers train{moving}: "
            "lock one (`--train_vision frozen`, `--train_text frozen`), or leave the cache out (of one of several "
            '`variants` by `"cache_locked_towers": null`).'
        )


def lockable_towers(core: Any, *, noise: bool = False, teacher: Teacher | None = None) -> list[str]:
    """
    The towers whose outputs can be kept.

    Args:
        core ([`TripletCLIPModel`]): The model that trains.
        noise (`bool`, defaults to `False`): Whether `neftune_noise_alpha` adds noise to token embeddings.
        teacher ([`Teacher`], *optional*): The teacher; its towers never train, unless it moves.

    Raises:
        ValueError: There is none, or the output of a locked tower changes from step to step.
    """
    training = {tower: how for tower in TOWERS if (how := _how_it_trains(core, tower)) is not None}
    locked = [tower for tower in TOWERS if tower not in training]
    changing = {tower: why for tower in locked if (why := _why_it_changes(core, tower, noise)) is not None}
    frozen = teacher is not None and not teacher.moves
    if changing or not (locked or frozen):
        listed = " and ".join(f"the {NAMES[tower]} tower {why}" for tower, why in (changing or training).items())
        listed += MOVING if teacher is not None and teacher.moves and not changing else ""
        raise ValueError(
            f"`cache_locked_towers` keeps the outputs of towers that do not change, but {listed}. Lock a tower "
            "(`--train_vision frozen`, `--train_text frozen`) without dropout and adapters, or leave the cache out."
        )
    return locked


def check_pooled_is_enough(objective: Objective, towers: Sequence[str]) -> None:
    """Raise `ValueError` if an objective needs more of a tower than its pooled output: nothing else is kept."""
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
    rate = core.dropout(tower)
    if any("lora_" in name for name, _ in module.named_parameters()):
        return "has adapters"
    if any(value.device.type == "meta" for value in module.parameters()):
        return "is not in memory as a whole"
    if noise and tower == "text":
        return "gets new noise at each step (`neftune_noise_alpha`)"
    return f"has a dropout of {rate:g}, so that its output changes from step to step" if rate > 0 else None


def check_rows_stay(dataset: Any, name: str, rows: int = 8) -> None:
    """Raise `ValueError` if the first rows of a dataset change when they are read again, as with an augmentation."""
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return  # a stream, which can be read only once
    for index in range(min(rows, len(dataset))):
        first, second = dataset[index], dataset[index]
        for column in first if isinstance(first, Mapping) else ():
            if not _same(first[column], second[column]):
                raise ValueError(
                    f"`cache_locked_towers` keeps one output for each image and caption, but {column!r} of row "
                    f"{index} of `{name}` changes when it is read again: remove the augmentation, or the cache."
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
    The cache of a trainer's locked towers, if its arguments ask for one. A teacher that does not move is given a cache
    of its own. A teacher that moves shares the locked towers with the model, and so their outputs.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains.

    Raises:
        OSError: The folder cannot be made.
        ValueError: No tower is locked, or the output of one, or the data, changes each time.
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
            f"`cache_locked_towers` keeps one output for each image and caption, but what a "
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
    if teacher is not None and not teacher.moves:  # else its outputs change from step to step
        teacher.towers = make(trainer.core if teacher.copy is None else teacher.copy, list(TOWERS))
    return make(trainer.core, towers)


def with_known_images(cache: TowerCache | None, collator: TripletCollator) -> TripletCollator:
    """The collator; with a cache it decodes only images that the locked tower has not seen."""
    known = None if cache is None else cache.known_images(collator.processor)
    return collator if known is None else dataclasses.replace(collator, known_images=known)


def with_known_outputs(cache: TowerCache | None, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch; with a cache it has the outputs of locked towers in place of their inputs."""
    if cache is None:
        return batch
    # Of the inputs: outputs of the same picture may differ in their last bits from process to process.
    contents = input_contents(batch, [name for name, role in ROLES.items() if role.model_input in batch])
    return {**cache.inputs(batch), CONTENTS: contents}


def check_same_as_teacher(trainer: Any) -> None:
    """Raise `ValueError` if a locked tower is not that of the teacher, which gets its output too."""
    if trainer.tower_cache is None or trainer.teacher is None or trainer.teacher.towers is None:
        return
    for tower in trainer.tower_cache.towers:
        mine, other = (tower_weights(one.core, tower) for one in (trainer.tower_cache, trainer.teacher.towers))
        if mine.keys() != other.keys() or not all(torch.equal(mine[name], other[name]) for name in mine):
            raise ValueError(
                f"The locked {NAMES[tower]} tower is not the teacher's: the checkpoint is of another model. Start "
                "from that model, or leave `cache_locked_towers` out."
            )


def caches_of(trainer: Any) -> list[TowerCache]:
    """The caches of a trainer and of its teacher."""
    own = (trainer.tower_cache, None if trainer.teacher is None else trainer.teacher.towers)
    return [cache for cache in own if cache is not None]


def flush_caches(trainer: Any) -> None:
    """Write the outputs of towers that are not written yet."""
    for cache in caches_of(trainer):
        cache.flush()


def fill_caches(trainer: Any) -> int:
    """
    Read each training row once and let it through the locked towers; several processes share the work.

    Args:
        trainer ([`TripletCLIPTrainer`]): The trainer.

    Returns:
        `int`: How many images and captions went through a tower in this process.

    Raises:
        ValueError: There is no cache or no data, or the training data is a stream.
    """
    args, dataset, collator = trainer.args, trainer.train_dataset, trainer.data_collator
    if trainer.tower_cache is None or dataset is None:
        raise ValueError("There is nothing to fill: give `cache_locked_towers` and a `train_dataset`.")
    caches = caches_of(trainer)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError("A stream cannot be read beforehand: its first pass fills the cache of locked towers.")
    before = sum(sum(cache.computed.values()) for cache in caches)
    if isinstance(collator, TripletCollator):
        every = dataclasses.replace(collator, draw_several=None)  # also the rows that later passes draw
        collator = TrainingCollator(with_known_images(trainer.tower_cache, every))
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
    flush_caches(trainer)
    trainer.accelerator.wait_for_everyone()
    return sum(sum(cache.computed.values()) for cache in caches) - before
