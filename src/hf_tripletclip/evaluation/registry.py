# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name, the suites, and how a benchmark is made from names, places and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tripletclip.utils.registry import load_class, make

if TYPE_CHECKING:
    from hf_tripletclip.evaluation.benchmark import Benchmark

# One line per benchmark: its name -> its file in `benchmarks/` and its class.
ONE_IMAGE = {
    "sugarcrepe": "sugarcrepe:SugarCrepe",
    "sugarcrepe_pp": "sugarcrepe_pp:SugarCrepePP",
    "aro": "aro:ARO",
    "valse": "valse:VALSE",
    "negbench": "negbench:NegBench",
    "whatsup": "whatsup:WhatsUp",
}
OWN = {"captions": "captions:Captions"}  # the user's own table; in no suite, because it has no data of its own
NEGATIVE_IMAGES = {
    "bivlc": "bivlc:BiVLC",
    "winoground": "winoground:Winoground",
    "colorswap": "colorswap:ColorSwap",
    "mmvp": "mmvp:MMVP",
    "cola": "cola:Cola",
    "triplets": "triplets:Triplets",
}
RETENTION = {"retrieval": "retrieval:Retrieval", "zeroshot": "zeroshot:ZeroShot"}
EMBEDDINGS = {"similarity": "similarity:Similarity"}
BENCHMARKS = {**ONE_IMAGE, **OWN, **NEGATIVE_IMAGES, **RETENTION, **EMBEDDINGS}
PACKAGE = "hf_tripletclip.evaluation.benchmarks"

SUITES = {
    "default": ("sugarcrepe", "winoground", "retrieval", "zeroshot"),
    "paper": ("sugarcrepe", "retrieval", "zeroshot", "triplets"),
    "composition": (*ONE_IMAGE, *NEGATIVE_IMAGES),
    "all": tuple(name for name in BENCHMARKS if name not in OWN),
}

EVERY = "*"  # instead of a benchmark's name: all others
LOCATIONS = ("annotations", "data", "dataset", "source")  # possible names of the field that says where the data is
IMAGES = "images"

Places = str | Sequence[str] | Mapping[str, str] | None


def resolve(names: Sequence[str]) -> list[str]:
    """
    The names of benchmarks, each once. The name of a suite is replaced by the benchmarks in it.

    Raises:
        ValueError: There is no benchmark or suite with one of these names.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in BENCHMARKS and name not in SUITES:
            raise ValueError(
                f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}, and the suites {', '.join(SUITES)}"
            )
        found |= dict.fromkeys(SUITES.get(name, (name,)))
    return list(found)


def benchmark_class(name: str) -> type[Benchmark]:
    """
    The class of this name.

    Raises:
        ValueError: There is no such benchmark.
    """
    return load_class("benchmark", name, BENCHMARKS, PACKAGE)


def get_benchmark(name: str, options: Mapping[str, Any] | None = None) -> Benchmark:
    """
    A benchmark by its name.

    Args:
        name (`str`): Such as `sugarcrepe`.
        options (`Mapping[str, Any]`, *optional*): Its settings.

    Raises:
        ValueError: There is no such benchmark, or it has no such setting.
    """
    return make("benchmark", name, BENCHMARKS, PACKAGE, options)


def by_benchmark(values: Places, flag: str) -> dict[str, str]:
    """
    Places by the name of their benchmark, or `"*"`.

    Args:
        values: One for all benchmarks, such as `"data"`; several, `["data", "winoground=facebook/winoground"]`; or a
            mapping, `{"*": "data", "winoground": "facebook/winoground"}`.
        flag (`str`): The name of the setting, for messages.

    Raises:
        ValueError: There is no such benchmark, or a benchmark has two places.
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
                f"`{flag}` has two places for {whose}, {found[name]} and {place}: write NAME=PLACE for "
                "a benchmark with a place of its own"
            )
        found[name] = place
    return found


def _split(value: str) -> tuple[str, str]:
    name, equals, place = value.partition("=")
    if equals and name.isidentifier() and not Path(value).exists():
        return name, place
    return EVERY, value


def place_of(places: Mapping[str, str], name: str) -> str | None:
    """A benchmark's place: its own; else the folder with its name in the place for all; else the place for all."""
    if name in places or EVERY not in places:
        return places.get(name)
    inside = Path(places[EVERY]).expanduser() / name
    return str(inside) if inside.exists() else places[EVERY]


def location_field(kind: type[Benchmark]) -> str | None:
    """The setting that says where a benchmark's data is: a usual name, or the first setting without a default."""
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
        options (`Mapping[str, Any]` or `str`, *optional*): Its own settings. A string says where the data is.
        shared (`Mapping[str, Any]`, *optional*): Settings that all benchmarks have.
        alone (`bool`, defaults to `True`): Whether this is the only benchmark. Then it is an error if it does not use
            the `images` that are given for all.

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
