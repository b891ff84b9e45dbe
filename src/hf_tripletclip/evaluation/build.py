# SPDX-License-Identifier: Apache-2.0
"""Benchmarks from what a user says: their names, where the data is, and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tripletclip.evaluation.registry import BENCHMARKS, benchmark_class, get_benchmark

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.benchmark import Benchmark

EVERY = "*"  # instead of a benchmark's name: all others
LOCATIONS = ("annotations", "data", "dataset", "source")  # what the field with the data's place may be called
IMAGES = "images"

Places = str | Sequence[str] | Mapping[str, str] | None


def by_benchmark(values: Places, flag: str) -> dict[str, str]:
    """
    Places by the name of the benchmark that they are for, or `"*"`.

    Args:
        values: One for all benchmarks, such as `"data"`; several, `["data", "winoground=facebook/winoground"]`; or a
            mapping, `{"*": "data", "winoground": "facebook/winoground"}`.
        flag (`str`): What they are called in messages.

    Raises:
        ValueError: There is no such benchmark, or two places are for the same.
    """
    if isinstance(values, Mapping):
        pairs = [(str(name), str(place)) for name, place in values.items()]
    else:
        given = [values] if isinstance(values, str) else [str(value) for value in values or ()]
        pairs = [_split(value) for value in given]
    found: dict[str, str] = {}
    for name, place in pairs:
        if name != EVERY and name not in BENCHMARKS:
            raise ValueError(f"`{flag}`: unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        if name in found:
            whose = "all benchmarks" if name == EVERY else name
            raise ValueError(
                f"`{flag}` has two places for {whose}, {found[name]} and {place}: write NAME=PLACE for one's own"
            )
        found[name] = place
    return found


def _split(value: str) -> tuple[str, str]:
    name, equals, place = value.partition("=")
    if equals and name.isidentifier() and not Path(value).exists():
        return name, place
    return EVERY, value


def place_of(places: Mapping[str, str], name: str) -> str | None:
    """A benchmark's place: its own, the folder of its name where the place for all has one, or the place for all."""
    if name in places or EVERY not in places:
        return places.get(name)
    inside = Path(places[EVERY]).expanduser() / name
    return str(inside) if inside.exists() else places[EVERY]


def location_field(kind: type[Benchmark]) -> str | None:
    """The setting that says where a benchmark's data is: one of the usual names, or the first without a default."""
    settings = [field for field in dataclasses.fields(kind) if field.init]
    names = [field.name for field in settings]
    if known := [name for name in LOCATIONS if name in names]:
        return known[0]
    return next((field.name for field in settings if _is_required(field)), None)


def build_benchmark(
    name: str,
    *,
    data: Mapping[str, str] | None = None,
    images: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | str | None = None,
    shared: Mapping[str, Any] | None = None,
    alone: bool = True,
) -> Benchmark:
    """
    A benchmark by its name.

    Args:
        name (`str`): Such as `sugarcrepe`.
        data, images (`Mapping[str, str]`, *optional*): From [`by_benchmark`]: where the data and the images are.
        options (`Mapping[str, Any]` or `str`, *optional*): Its own settings; a string says where the data is.
        shared (`Mapping[str, Any]`, *optional*): Settings that all benchmarks have.
        alone (`bool`, defaults to `True`): Whether no other benchmark is asked for: then the place of images that is
            for all is for this one, which must need it.

    Raises:
        ValueError: There is no such benchmark or setting, or nothing says where its data is.
    """
    kind = benchmark_class(name)
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    where = location_field(kind)
    settings = dict(shared or {})
    if where is not None and (place := place_of(data or {}, name)) is not None:
        settings[where] = place
    if (place := place_of(images or {}, name)) is not None and (IMAGES in known or name in (images or {})):
        settings[IMAGES] = place
    settings |= {where or "data": options} if isinstance(options, str) else dict(options or {})
    if missing := [option for option, field in known.items() if _is_required(field) and option not in settings]:
        if missing == [where]:
            raise ValueError(
                f"say where the data of {name} is: --data {name}=PATH_OR_HUB_ID, or in Python its setting `{where}`"
            )
        ways = ", ".join(f"--option {name}.{option}=..." for option in missing)
        raise ValueError(f"{name} needs the settings {', '.join(missing)}: {ways}")
    benchmark = get_benchmark(name, settings)
    benchmark.images_for_all = not alone and name not in (images or {})
    return benchmark


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
