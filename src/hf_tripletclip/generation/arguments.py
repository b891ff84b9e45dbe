# SPDX-License-Identifier: Apache-2.0
"""The arguments of `tripletclip generate`, as flags or in a YAML file, and its main function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tripletclip.generation.filters import filters_of
from hf_tripletclip.generation.registry import CAPTIONS, CHECKS, IMAGES, PARAPHRASES, get_stage
from hf_tripletclip.generation.source import Source
from hf_tripletclip.generation.stage import Stage
from hf_tripletclip.generation.wordnet import HOW
from hf_tripletclip.utils.cli_arguments import Exclusion, as_columns, as_mapping, parse_with_config
from hf_tripletclip.utils.registry import fits

if TYPE_CHECKING:  # it needs datatrove, and `--help` does not
    from hf_tripletclip.generation.run import GenerationSettings

EXECUTORS = ("local", "slurm", "ray")
NONE = "none"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)


@dataclass
class GenerationArguments:
    """The arguments of a run of generation."""

    output: str = field(default="tripletdata", metadata={"help": "Folder of the dataset that is made."})
    data: str = field(
        default="scenes",
        metadata={"help": "The image-caption pairs: `scenes`, a local folder or file, or the id of a Hub dataset."},
    )
    splits: list[str] | None = field(
        default=None, metadata={"help": "Splits of the data that are read. Default: all."}
    )
    validation_share: float = field(
        default=0.0, metadata={"help": "Share of the pictures that becomes a split `validation`."}
    )
    test_share: float = field(
        default=0.0,
        metadata={"help": "Share that becomes a split `test`: all rows of a picture, by a hash of its pixels."},
    )
    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={"help": 'The data\'s own column names: a preset, or JSON such as {"caption": "text"}.'},
    )
    images: str | None = field(
        default=None, metadata={"help": "A folder of images that paths in the data may lead to."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    max_rows: int | None = field(default=None, metadata={"help": "The first N rows of each split only."})
    scenes_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Settings of `scenes`, as JSON: nouns, seed, image_size, train_size, ..."}
    )
    neg_captions: str | None = field(
        default=None,
        metadata={
            "help": f"Source of negative captions: {_names([*CAPTIONS, NONE])}. Default: `scenes` for `scenes`. "
            f"`rules` needs WordNet: {HOW}."
        },
    )
    neg_captions_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Its settings, as JSON; docs/tripletdata.md lists them."}
    )
    neg_images: str | None = field(
        default=None,
        metadata={"help": f"Source of negative images: {_names([*IMAGES, NONE])}. Default: `scenes` for `scenes`."},
    )
    neg_images_options: dict[str, Any] | str | None = field(default=None, metadata={"help": "Its settings, as JSON."})
    paraphrases: str | None = field(
        default=None,
        metadata={"help": f"Source of a column `paraphrase`: {_names(list(PARAPHRASES))}, which needs WordNet."},
    )
    paraphrases_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Its settings, as JSON: {"num_paraphrases": 3}.'}
    )
    checks: list[str] | None = field(default=None, metadata={"help": f"Scores to add: {_names(list(CHECKS))}."})
    checks_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Their settings by name, as JSON: {"clip": {"model": "..."}}.'}
    )
    filters: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'Bounds on the scores, as JSON: {"min_clip_score_mean": 0.25, "best": 1000}.'}
    )
    unit_rows: int = field(default=256, metadata={"help": "Rows of a work unit: a few minutes' work is a good size."})
    rows_per_file: int = field(default=10_000, metadata={"help": "Rows of a parquet file of the dataset."})
    license: str | None = field(default=None, metadata={"help": "License of the dataset: an identifier of the Hub."})
    executor: str = field(default="local", metadata={"help": f"Where it runs: {_names(EXECUTORS)}."})
    num_workers: int = field(default=1, metadata={"help": "Processes, or tasks at a time on a cluster."})
    executor_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Settings of a cluster, as JSON: tasks, time, partition, gpus_per_task, cpus_per_task, "
            "mem_per_cpu_gb, venv_path, ... as datatrove's."
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Time a sample and tell how long the run would take; make nothing."}
    )
    price_per_hour: float | None = field(
        default=None, metadata={"help": "Price of one worker, for the estimate of `--dry_run`."}
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Start anew if the output has other settings; the old dataset stays until the new one is whole."
        },
    )
    status: str | None = field(
        default=None,
        metadata={"help": "Tell how far the run of this output folder is, on any executor, and why units failed."},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bars."})


def _other(flag: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], bool]:
    """Whether the command line says something else than the configuration."""
    return lambda given, config: given[flag] != config.get(flag)


# What the command line asks for wins over these settings of a configuration, which exclude it.
EXCLUSIONS = (
    Exclusion("data", ("scenes_options",), when=lambda given, config: given["data"] != "scenes"),
    *(
        Exclusion(
            "data",
            (f"neg_{kind}", f"neg_{kind}_options"),
            when=lambda given, config, flag=f"neg_{kind}": (  # type: ignore[misc]
                given["data"] != "scenes" and config.get(flag) == "scenes"
            ),
        )
        for kind in ("captions", "images")
    ),
    Exclusion("data", ("columns", "revision", "images"), when=lambda given, config: given["data"] == "scenes"),
    Exclusion("neg_captions", ("neg_captions_options",), when=_other("neg_captions")),
    Exclusion("neg_images", ("neg_images_options",), when=_other("neg_images")),
    Exclusion("paraphrases", ("paraphrases_options",), when=_other("paraphrases")),
    Exclusion("checks", ("checks_options",), keep=lambda given, config: set(given["checks"])),
    Exclusion("executor", ("executor_options",), when=_other("executor")),
)


def parse_generation_arguments(
    argv: Sequence[str], default_config: str | Path | None = None, prog: str | None = None
) -> tuple[GenerationArguments, GenerationSettings]:
    """
    Read the arguments of a run, and make its settings.

    Raises:
        FileNotFoundError: The config file does not exist.
        ValueError: A flag, a key, a stage or one of its settings is unknown, or a value is not allowed.
        ImportError: A library that a stage needs is not installed.
    """
    (arguments,) = parse_with_config(
        (GenerationArguments,),
        argv,
        default_config,
        description="Make hard negative captions and images for image-caption pairs. It needs the libraries of "
        'pip install "hf_tripletclip[generation]".',
        prog=prog,
        exclusions=EXCLUSIONS,
    )
    from hf_tripletclip.generation.run import GenerationSettings

    columns = as_columns(arguments)
    options = {
        name: as_mapping(arguments, name)
        for name in (f.name for f in fields(arguments))
        if name.endswith("_options") or name == "filters"
    }
    if arguments.executor not in EXECUTORS:
        raise ValueError(f"unknown executor {arguments.executor!r}; there are {_names(EXECUTORS)}")
    _refuse_without_effect(arguments, options)
    if unknown := [name for name in options["checks_options"] if name not in (arguments.checks or ())]:
        raise ValueError(f"`checks_options` has settings of {_names(unknown)}, which `checks` does not name")
    settings = GenerationSettings(
        source=Source(
            name=arguments.data,
            splits=None if arguments.splits is None else tuple(arguments.splits),
            columns=columns,
            revision=arguments.revision,
            max_rows=arguments.max_rows,
            scenes=options["scenes_options"],
            images=arguments.images,
        ),
        output=arguments.output,
        captions=_negatives(arguments, "captions", options),
        images=_negatives(arguments, "images", options),
        paraphrases=None
        if arguments.paraphrases is None
        else get_stage("paraphrases", arguments.paraphrases, options["paraphrases_options"]),
        checks=[get_stage("check", name, options["checks_options"].get(name)) for name in arguments.checks or ()],
        filters=filters_of(options["filters"]),
        unit_rows=arguments.unit_rows,
        rows_per_file=arguments.rows_per_file,
        license=arguments.license,
        validation_share=arguments.validation_share,
        test_share=arguments.test_share,
    )
    return arguments, settings


def _negatives(arguments: GenerationArguments, kind: str, options: Mapping[str, dict[str, Any]]) -> Stage | None:
    """The source of negative captions or images. `scenes` takes the settings of the rows of `scenes`."""
    name, own = getattr(arguments, f"neg_{kind}"), options[f"neg_{kind}_options"]
    if name is None:
        if arguments.data != "scenes":
            known = CAPTIONS if kind == "captions" else IMAGES
            raise ValueError(
                f"name a source of negative {kind}: --neg_{kind} {', '.join(known)}; or {NONE}, to make no {kind}"
            )
        name = "scenes"
    if name == NONE:
        if own:
            raise ValueError(f"`neg_{kind}_options` are given, but `neg_{kind}` is {NONE}")
        return None
    if name == "scenes" and arguments.data == "scenes":
        shared = {"nouns": "nouns", "seed": "scenes_seed"} | ({"image_size": "image_size"} if kind == "images" else {})
        given = options["scenes_options"]
        own = {ours: given[theirs] for theirs, ours in shared.items() if theirs in given} | own
    return get_stage(kind, name, own)


def _refuse_without_effect(arguments: GenerationArguments, options: dict[str, dict[str, Any]]) -> None:
    """Raise `ValueError` for an argument that is out of range or would have no effect."""
    if arguments.num_workers < 1:
        raise ValueError(f"`num_workers` is {arguments.num_workers}; give at least 1")
    if options["executor_options"] and arguments.executor == "local":
        raise ValueError("`executor_options` are for a cluster: add `--executor slurm` or `--executor ray`")
    if options["paraphrases_options"] and arguments.paraphrases is None:
        raise ValueError("`paraphrases_options` are given, but no `paraphrases`: name a source, such as rules")
    if arguments.status is not None:
        raise ValueError("`status` looks at a folder and starts nothing: give it alone, as `--status OUTPUT`")
    if arguments.price_per_hour is not None and not arguments.dry_run:
        raise ValueError("`price_per_hour` is for the estimate: add `--dry_run`")
    if arguments.data == "scenes" and (arguments.revision or arguments.columns):
        raise ValueError("`scenes` has no revisions and no other column names: leave out `revision` and `columns`")
    if arguments.revision and Path(arguments.data).exists():
        raise ValueError(f"`revision` is of a Hub dataset, but {arguments.data} is a local path: leave it out")
    for name, value in options["scenes_options"].items():
        if not fits(value, int) and not (name == "nouns" and value == "all"):
            raise ValueError(f"`scenes_options`: `{name}` is {value!r}: give a whole number")


def main(argv: Sequence[str], default_config: str | Path | None = None, prog: str | None = None) -> None:
    """
    Run a generation job from command-line arguments; see [`parse_generation_arguments`] and
    [`~hf_tripletclip.generation.generate`]. `prog` is what `--help` calls the program.
    """
    if (looked_at := _status_alone(argv)) is not None:
        from hf_tripletclip.generation.status import status

        print(status(looked_at))
        return
    arguments, settings = parse_generation_arguments(argv, default_config, prog)
    from hf_tripletclip.generation.run import generate

    progress = not arguments.disable_tqdm
    options = as_mapping(arguments, "executor_options")
    if arguments.dry_run:
        from hf_tripletclip.generation.engine import bars
        from hf_tripletclip.generation.estimate import estimate

        with bars(progress):
            print(estimate(settings, workers=arguments.num_workers, price_per_hour=arguments.price_per_hour))
        return
    if arguments.executor == "slurm":
        from hf_tripletclip.generation.cluster import submit
        from hf_tripletclip.generation.engine import bars

        with bars(progress):
            print(submit(settings, "slurm", arguments.num_workers, options, arguments.overwrite))
        return
    if arguments.executor == "ray":
        from hf_tripletclip.generation.cluster import generate_on_ray

        report = generate_on_ray(
            settings, arguments.num_workers, options, overwrite=arguments.overwrite, progress=progress
        )
    else:
        report = generate(settings, workers=arguments.num_workers, overwrite=arguments.overwrite, progress=progress)
    print(report.summary())
    if not report.seconds:
        print("It was finished already: nothing was made.")
    print(f"The dataset is in {arguments.output}: load_dataset({arguments.output!r})")


def _status_alone(argv: Sequence[str]) -> str | None:
    """The folder of `--status FOLDER` or `--status=FOLDER` if nothing else is given."""
    if len(argv) == 2 and argv[0] == "--status":
        return argv[1]
    if len(argv) == 1 and argv[0].startswith("--status="):
        return argv[0].partition("=")[2]
    return None
