# SPDX-License-Identifier: Apache-2.0
"""The names of CLIP_benchmark's classification sets, and where they are."""

from __future__ import annotations

import os
import re
from pathlib import Path

# The sets of CLIP_benchmark's collection `vtab` in their VTAB version (Zhai et al. 2019, arXiv 1910.04867): all but
# SUN397, which is not among them. The TripletCLIP paper averages over 18 sets.
VTAB18 = (
    "vtab/caltech101",
    "vtab/cifar100",
    "vtab/clevr_count_all",
    "vtab/clevr_closest_object_distance",
    "vtab/diabetic_retinopathy",
    "vtab/dmlab",
    "vtab/dsprites_label_orientation",
    "vtab/dsprites_label_x_position",
    "vtab/dtd",
    "vtab/eurosat",
    "vtab/kitti_closest_vehicle_distance",
    "vtab/flowers",
    "vtab/pets",
    "vtab/pcam",
    "vtab/resisc45",
    "vtab/smallnorb_label_azimuth",
    "vtab/smallnorb_label_elevation",
    "vtab/svhn",
)
COLLECTIONS = {"vtab18": VTAB18}
HUB = "clip-benchmark"


def short_name(source: str) -> str:
    """What metrics call a set: `clip-benchmark/wds_vtab-dtd`, `vtab/dtd` and `/data/dtd` are `dtd`."""
    return re.sub(r"^(wds_)?(vtab-)?", "", Path(source).name) or source


def locate(name: str, folder: str | None) -> str:
    """
    Where a set is.

    Args:
        name (`str`): A path, a Hub id or CLIP_benchmark's name.
        folder (`str`, *optional*): Where sets lie.
    """
    if os.path.exists(os.path.expanduser(name)) or ("/" in name and not name.startswith("vtab/")):
        return name
    repository = f"wds_{name.replace('/', '-')}"
    if folder is not None:
        for candidate in (repository, name, repository.removeprefix("wds_"), short_name(name)):
            if (Path(folder).expanduser() / candidate).is_dir():
                return str(Path(folder) / candidate)
    return f"{HUB}/{repository}"
