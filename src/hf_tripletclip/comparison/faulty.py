# SPDX-License-Identifier: Apache-2.0
"""Drawn data in which some negative images do not show their captions, and a table of what filters remove."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_tripletclip.comparison.experiments import KEPT_ROWS
from hf_tripletclip.data import load_tripletdata
from hf_tripletclip.data.scenes.build import row_of
from hf_tripletclip.data.scenes.faulty import is_faulty
from hf_tripletclip.data.scenes.start import start_folder
from hf_tripletclip.data.schema import ID, NEGATIVE_TYPE
from hf_tripletclip.generation.filters import FilterSettings, apply_filters
from hf_tripletclip.utils.markdown import markdown_table

FAULTY_SHARE = 0.3
SEED = 0  # seed of the drawn data, as in all experiments


def make_faulty(folder: Path, progress: bool = True, **sizes: int) -> None:
    """
    Make the data in the same way as `tripletclip generate`, with an image source that fails in some rows and the check
    `clip`, whose CLIP is the start of the runs. Neither the check nor a filter knows which rows are faulty. Existing
    data are kept.

    Args:
        folder (`Path`): Folder for the data.
        progress (`bool`, defaults to `True`): Whether to show progress bars.
        sizes (`int`): `train_size`, `validation_size` and `test_size`; by default those of all runs.

    Raises:
        ImportError: The libraries of generation are not installed.
        ValueError: The folder holds other data.
    """
    from hf_tripletclip.generation import GenerationSettings, Source, generate, get_stage

    settings = GenerationSettings(
        source=Source("scenes", scenes={"seed": SEED, **sizes}),
        output=folder,
        captions=get_stage("captions", "scenes", {"scenes_seed": SEED}),
        images=get_stage("images", "scenes", {"scenes_seed": SEED, "faulty_share": FAULTY_SHARE}),
        checks=[get_stage("check", "clip", {"model": str(start_folder()), "dtype": "float32"})],
        unit_rows=2000,
    )
    generate(settings, progress=progress)


def filter_table(folder: Path, best: int = KEPT_ROWS["scenes"]) -> str:
    """
    A Markdown table of the rows that filters leave out, by the kind of change.

    Args:
        folder (`Path`): Folder of the data.
        best (`int`): Number of rows that the experiment's filter keeps. The table also shows a bound on the margin.
    """
    filters = {f"best {best}": FilterSettings(best=best), "min_neg_margin 0": FilterSettings(min_neg_margin=0.0)}
    train = load_tripletdata(str(folder), split="train")
    assert isinstance(train, Dataset)
    places = [row_of(key) for key in train[ID]]
    faulty = np.array([place is not None and is_faulty(*place, SEED, FAULTY_SHARE) for place in places])
    kinds = np.array(train[NEGATIVE_TYPE])
    names = [str(kind) for kind in np.unique(kinds)]
    head = ["filter", "rows kept", "faulty of them", "faulty rows left out", "others left out"]
    lines = [["none", str(len(train)), f"{faulty.mean():.3f}", *["0"] * (2 + len(names))]]
    for label, settings in filters.items():
        scores = train.select_columns(list(settings.columns())).with_format(None)[:]
        out = np.ones(len(train), dtype=bool)
        out[apply_filters(scores, settings, len(train))[0]] = False
        rows = [faulty, ~faulty, *(faulty & (kinds == kind) for kind in names)]
        shares = [f"{out[some].mean():.3f}" for some in rows]
        lines.append([f"`{label}`", str((~out).sum()), f"{faulty[~out].mean():.3f}", *shares])
    return markdown_table([*head, *(f"faulty left out, {kind}" for kind in names)], lines)
