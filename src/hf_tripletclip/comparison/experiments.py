# SPDX-License-Identifier: Apache-2.0
"""The experiments of the TripletCLIP paper and of later methods, as lists of runs to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_tripletclip.objectives import OBJECTIVES, available_objectives
from hf_tripletclip.roles import BY_COLUMN

SCALES = ("scenes", "photos", "paper")


@dataclass(frozen=True)
class Arm:
    """
    A row of a table: runs that differ only in their seed.

    Args:
        label (`str`): Its label in the table.
        flags (`Mapping[str, Any]`): The flags of the training script that it sets, without dashes.
        steps (`float`, defaults to 1): Its training steps, as a multiple of the experiment's.
        batch (`float`, defaults to 1): Its batch size, as a multiple of the experiment's.
        run (`str`, *optional*): Label of another experiment's arm with the same training, whose runs it shares. By
            default it has its own runs.
        faulty (`bool`, defaults to `False`): Whether it trains on the drawn data in which some negative images do not
            show their captions.
        scales (`tuple[str, ...]`): The scales at which it can run.
    """

    label: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    steps: float = 1.0
    batch: float = 1.0
    run: str | None = None
    faulty: bool = False
    scales: tuple[str, ...] = SCALES

    @property
    def runs(self) -> str:
        """The label of its runs."""
        return self.run or self.label

    @property
    def needs_neighbours(self) -> bool:
        """Whether its batches are filled with nearest neighbours, which are mined once for all runs."""
        return bool(self.flags.get("batch_neighbours"))


@dataclass(frozen=True)
class Experiment:
    """
    A question and the arms that answer it.

    Args:
        name (`str`): Its name for `--experiment`.
        title (`str`): Title of its table.
        question (`str`): The question that it answers.
        source (`str`): The tables and figures of the paper that it repeats.
        scales (`tuple[str, ...]`): The scales at which it can run.
        baseline (`str`): Label of the arm with which the others are compared.
        arms (`tuple[Arm, ...]`): Its arms.
        start (`str`, *optional*): At the scale of the paper: the objective that trains the model from which all arms
            start. They start from random weights by default.
    """

    name: str
    title: str
    question: str
    source: str
    baseline: str
    arms: tuple[Arm, ...]
    scales: tuple[str, ...] = SCALES
    start: str | None = None


def _of(*objectives: str) -> tuple[Arm, ...]:
    return tuple(_arm_of(name) for name in objectives)


def _arm_of(objective: str) -> Arm:
    if any(term.uses_bias for term in OBJECTIVES[objective].terms):
        # A CLIP has no bias; SigLIP starts with this one.
        return Arm(objective, {"objective": objective, "objective_kwargs": {"bias": -10.0}})
    if not OBJECTIVES[objective].needs_neighbours:
        return Arm(objective, {"objective": objective})
    # Not at `photos`: the five rows of a photograph would be each other's neighbours.
    return Arm(objective, {"objective": objective, "batch_neighbours": 1}, scales=("scenes", "paper"))


TRIPLET = Arm("tripletclip", {"objective": "tripletclip"})
# Controls separate the gain of negatives from the gain of more data, images and compute. A triplet has two images and
# two captions, and costs as much as two pairs: twice the steps of CLIP equal all three.
CONTROLS = (
    Arm("clip_all", {"objective": "clip_all"}),
    Arm("clip, 2x steps", {"objective": "clip"}, steps=2),
    Arm("clip, 2x batch", {"objective": "clip"}, batch=2),
)
# Methods that need no negative images: a set of photographs has none.
CAPTION_ONLY = tuple(
    name
    for name in available_objectives()
    if not any(BY_COLUMN[column].is_image and column != "image" for column in OBJECTIVES[name]().columns)
)

# `clip_all` is one of the controls.
EVERY_METHOD = tuple(name for name in OBJECTIVES if name != "clip_all")

# Rows that the filtered experiment keeps: half of the drawn rows, or as many as the paper. Rows have no order, so the
# first ones are as good as a random choice.
KEPT_ROWS = {"scenes": 10_000, "paper": 1_400_000}

MASKED: dict[str, Any] = {"repeats": "mask"}
DISTILLED: dict[str, Any] = {"distillation": {"kind": "similarity", "weight": 1.0}}
RECIPES = ("clip", "negclip", "fsc_clip", "tsvlc")
# Images and other captions of a photograph rank a caption above its own negatives, without the language prior. Other
# captions of the same photograph are masked, captions stay close to the start, and the learning rate is high. These
# settings were chosen on other photographs than those of the table.
HELD: dict[str, Any] = {"kind": "embedding", "weight": 20.0}
RECIPE: dict[str, Any] = {
    "objective": "pairwise",
    "objective_kwargs": {
        "own_weight": 20.0,
        "text_weight": 20.0,
        "others": "dense_caption",
        "repeats": "mask",
        "distillation": {**HELD, "roles": ["text"]},
    },
    "learning_rate": 1e-3,
    "max_positives": 1,
}
UNDEBIASED = {**RECIPE, "objective_kwargs": {**RECIPE["objective_kwargs"], "debias": 0.0}}
# If both towers train, both stay close to the start.
RECIPE_OF_BOTH: dict[str, Any] = {
    "objective": "pairwise",
    "objective_kwargs": {"repeats": "mask", "distillation": {**HELD, "roles": ["image", "text"]}},
}

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "main",
            "Every method, equal data and equal steps",
            "Which method understands composition? Does the triplet beat CLIP with as many pairs, images and FLOPs?",
            "Patel et al. 2024, Tables 4 and 5",
            "clip",
            (*_of(*EVERY_METHOD), *CONTROLS),
        ),
        Experiment(
            "recipe",
            "The effect of each part of a fine-tuning recipe",
            "How much composition is gained, and how much retrieval and zero-shot accuracy is lost?",
            "no table of the paper",
            "clip",
            (
                *_of("clip", "negclip", "fsc_clip", "tsvlc"),
                Arm("recipe", RECIPE, batch=0.5),
                Arm("recipe, debias 0", UNDEBIASED, batch=0.5),
                *(Arm(f"{name}, masked", {"objective": name, "objective_kwargs": MASKED}) for name in RECIPES),
                *(
                    Arm(f"{name}, masked, distilled", {"objective": name, "objective_kwargs": MASKED | DISTILLED})
                    for name in RECIPES
                ),
            ),
            scales=("photos",),
        ),
        Experiment(
            "modality",
            "Hard negative captions, images, or both",
            "Which half of the hard negative pair helps?",
            "Patel et al. 2024, Table 3",
            "clip",
            _of("clip", "negclip_image", "negclip", "tripletclip"),
            scales=("scenes", "paper"),
        ),
        Experiment(
            "controls",
            "The triplet against its controls",
            "Does the triplet gain more than as many pairs, images or FLOPs?",
            "Patel et al. 2024 has no such table",
            "clip, 2x steps",
            (*_of("clip"), TRIPLET, *CONTROLS),
            scales=("scenes", "paper"),
        ),
        Experiment(
            "cyclip",
            "CyCLIP and the triplet",
            "Do the consistency terms help, and does the triplet add to them?",
            "Patel et al. 2024, Table 15",
            "clip",
            _of("clip", "cyclip", "tripletclip", "cyclip_triplet"),
            scales=("scenes", "paper"),
        ),
        Experiment(
            "locked",
            "One tower locked",
            "Which tower learns composition?",
            "Patel et al. 2024, Table 8",
            "clip, both towers",
            tuple(
                Arm(f"{objective}, {what}", {"objective": objective, **flags}, run=None if flags else objective)
                for objective in ("clip", "tripletclip")
                for what, flags in (
                    ("both towers", {}),
                    ("text tower", {"train_vision": "frozen"}),
                    ("image tower", {"train_text": "frozen"}),
                )
            ),
            scales=("scenes", "paper"),
            start="clip",
        ),
        Experiment(
            "finetune",
            "Fine-tuning a CLIP",
            "How much does fine-tuning gain in composition, and how much retrieval does it cost?",
            "Patel et al. 2024, Tables 7 and 16",
            "clip",
            (
                *_of("clip", "negclip", "tsvlc", "dac", "conclip", "fsc_clip", "ce_clip", "degla", "tripletclip"),
                Arm("recipe", RECIPE_OF_BOTH),
                Arm(
                    "tripletclip, LoRA",
                    {
                        "objective": "tripletclip",
                        "train_text": "lora",
                        "train_vision": "lora",
                        "lora_target_modules": "all-linear",
                    },
                ),
                Arm(
                    "tripletclip, distilled",
                    {
                        "objective": "tripletclip",
                        "objective_kwargs": {"distillation": {"kind": "similarity", "weight": 1.0}},
                    },
                ),
            ),
            scales=("scenes", "paper"),
            start="clip",
        ),
        Experiment(
            "coverage",
            "Concept coverage at a fixed number of rows",
            "Do more concepts in the training rows help, measured on the same test rows of 24 nouns?",
            "Patel et al. 2024, the coverage curve",
            "clip, 24 nouns",
            tuple(
                Arm(
                    f"{objective}, {nouns} nouns",
                    {"objective": objective, "scenes_nouns": nouns, "scenes_test_nouns": 24},
                )
                for objective in ("clip", "tripletclip")
                for nouns in (8, 16, 24)
            ),
            scales=("scenes",),
        ),
        Experiment(
            "filtered",
            "Filtered and unfiltered negatives",
            "What do negative images that do not show their captions cost, and how much does a filter recover?",
            "Patel et al. 2024, Table 6",
            "tripletclip, unfiltered",
            (
                *_of("clip"),
                Arm("tripletclip, none faulty", {"objective": "tripletclip"}, run="tripletclip", scales=("scenes",)),
                *(
                    Arm(
                        f"tripletclip, {what}",
                        {"objective": "tripletclip", **flags},
                        faulty=scale == "scenes",
                        scales=(scale,),
                    )
                    for scale, rows in KEPT_ROWS.items()
                    for what, flags in (
                        ("unfiltered", {}),
                        ("filtered", {"filters": {"best": rows}}),
                        ("as few at random", {"max_train_samples": rows}),
                    )
                ),
            ),
            scales=("scenes", "paper"),
        ),
    )
}


def find_experiment(name: str, scale: str) -> Experiment:
    """
    Find an experiment by its name.

    Raises:
        ValueError: There is no such experiment or scale, or the experiment cannot run at the scale.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"There is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    if scale not in SCALES:
        raise ValueError(f"There is no scale {scale!r}; there are {', '.join(SCALES)}.")
    experiment = EXPERIMENTS[name]
    if scale not in experiment.scales:
        fitting = [one.name for one in EXPERIMENTS.values() if scale in one.scales]
        raise ValueError(
            f"The experiment {name!r} runs at {' and '.join(experiment.scales)}, not at {scale}; at {scale} give "
            f"one of {', '.join(fitting)}."
        )
    return experiment


def arms_at(experiment: Experiment, scale: str, only: Sequence[str] | None = None) -> tuple[Arm, ...]:
    """
    The arms that can run at a scale.

    Args:
        experiment ([`Experiment`]): The experiment.
        scale (`str`): The scale. `photos` has no negative images, and so only methods that do not need them.
        only (`Sequence[str]`, *optional*): Labels of the arms to keep; the baseline is always kept.

    Raises:
        ValueError: The experiment has no arm with one of the labels.
    """
    arms = tuple(
        arm
        for arm in experiment.arms
        if scale in arm.scales and (scale != "photos" or arm.flags.get("objective") in CAPTION_ONLY)
    )
    if only is None:
        return arms
    known = [arm.label for arm in arms]
    if unknown := [label for label in only if label not in known]:
        named, there = (", ".join(map(repr, labels)) for labels in (unknown, known))
        raise ValueError(f"{experiment.name} has no {named} at {scale}; it has {there}.")
    return tuple(arm for arm in arms if arm.label in only or arm.label == experiment.baseline)
