# SPDX-License-Identifier: Apache-2.0
"""What `tripletclip generate` can be told, by flags or in a YAML file, and its main function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tripletclip.generation.filters import filters_of
from hf_tripletclip.generation.registry import CAPTIONS, CHECKS, IMAGES, PARAPHRASES, get_stage
from hf_tripletclip.generation.source import Source
from hf_tripletclip.generation.stage import Stage
from hf_tripletclip.generation.wordnet import HOW
from hf_tripletclip.utils.cli_arguments import as_columns, as_mapping, parse_with_config
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
    source: str = field(
        default="scenes",
        metadata={"help": "The image-caption pairs: `scenes`, a local folder or file, or the id of a Hub dataset."},
    )
    splits: list[str] | None = field(
        default=None, metadata={"help": "Splits of the source that are read. Default: all."}
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
        metadata={"help": 'The source\'s own column names: a preset, or JSON such as {"caption": "text"}.'},
    )
    source_images: str | None = field(
        default=None, metadata={"help": "A folder of images that paths in the source may lead to."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    max_rows: int | None = field(default=None, metadata={"help": "The first N rows of each split only."})
    scenes_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Of the source `scenes`, as JSON: nouns, seed, image_size, train_size, ..."}
    )
    captions: str | None = field(
        default=None,
        metadata={
            "help": f"Source of captions: {_names([*CAPTIONS, NONE])}. Default: `scenes` for `scenes`. `rules` needs "
            f"WordNet: {HOW}."
        },
    )
    captions_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Its settings, as JSON; docs/tripletdata.md lists them."}
    )
    images: str | None = field(
        default=None,
        metadata={"help": f"Source of images: {_names([*IMAGES, NONE])}. Default: `scenes` for `scenes`."},
    )
    images_options: dict[str, Any] | str | None = field(default=None, metadata={"help": "Its settings, as JSON."})
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
    workers: int = field(default=1, metadata={"help": "Processes, or tasks at a time on a cluster."})
    executor_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Of a cluster, as JSON: tasks, time, partition, gpus_per_task, cpus_per_task, mem_per_cpu_gb, "
            "venv_path, ... as datatrove's."
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Time a sample and say how long it would take; make nothing."}
    )
    price_per_hour: float | None = field(default=None, metadata={"help": "Of one worker, for the dry run's estimate."})
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Start anew where the output has other settings; the old dataset stays until the new is whole."
        },
    )
    status: str | None = field(
        default=None,
        metadata={"help": "Say how far the run of this output folder is, on any executor, and why units failed."},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bars."})


def parse_generation_arguments(
    argv: Sequence[str], default_config: str | Path | None = None, prog: str | None = None
) -> tuple[GenerationArguments, GenerationSettings]:
    """
    Read the arguments of a run, and what they ask for.

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
            name=arguments.source,
            splits=None if arguments.splits is None else tuple(arguments.splits),
            columns=columns,
            revision=arguments.revision,
            max_rows=arguments.max_rows,
            scenes=options["scenes_options"],
            images=arguments.source_images,
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
    """The source of captions or images. That of the embedded data takes its rows' settings from theirs."""
    name, own = getattr(arguments, kind), options[f"{kind}_options"]
    if name is None:
        if arguments.source != "scenes":
            known = CAPTIONS if kind == "captions" else IMAGES
            raise ValueError(f"name a source of {kind}: --{kind} {', '.join(known)}; or {NONE}, to make no {kind}")
        name = "scenes"
    if name == NONE:
        if own:
            raise ValueError(f"`{kind}_options` are given, but `{kind}` is {NONE}")
        return None
    if name == "scenes" and arguments.source == "scenes":
        shared = {"nouns": "nouns", "seed": "scenes_seed"} | ({"image_size": "image_size"} if kind == "images" else {})
        given = options["scenes_options"]
        own = {ours: given[theirs] for theirs, ours in shared.items() if theirs in given} | own
    return get_stage(kind, name, own)


def _refuse_without_effect(arguments: GenerationArguments, options: dict[str, dict[str, Any]]) -> None:
    """Raise `ValueError` for an argument that would be ignored: whoever gives one expects something of it."""
    if options["executor_options"] and arguments.executor == "local":
        raise ValueError("`executor_options` are a cluster's: name it with `--executor slurm` or `--executor ray`")
    if options["paraphrases_options"] and arguments.paraphrases is None:
        raise ValueError("`paraphrases_options` are given, but no `paraphrases`: name a source, such as rules")
    if arguments.status is not None:
        raise ValueError("`status` looks at a folder and starts nothing: give it alone, as `--status OUTPUT`")
    if arguments.price_per_hour is not None and not arguments.dry_run:
        raise ValueError("`price_per_hour` is for the estimate: add `--dry_run`")
    if arguments.source == "scenes" and (arguments.revision or arguments.columns):
        raise ValueError("the source `scenes` has neither revisions nor other column names")
    if arguments.revision and Path(arguments.source).exists():
        raise ValueError(f"`revision` is of a Hub dataset, and {arguments.source} is here")
    for name, value in options["scenes_options"].items():
        if not fits(value, int) and not (name == "nouns" and value == "all"):
            raise ValueError(f"`scenes_options`: `{name}` is {value!r}, which is no number")


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
            print(estimate(settings, workers=arguments.workers, price_per_hour=arguments.price_per_hour))
        return
    if arguments.executor == "slurm":
        from hf_tripletclip.generation.cluster import submit
        from hf_tripletclip.generation.engine import bars

        with bars(progress):
            print(submit(settings, "slurm", arguments.workers, options, arguments.overwrite))
        return
    if arguments.executor == "ray":
        from hf_tripletclip.generation.cluster import generate_on_ray

        report = generate_on_ray(
            settings, arguments.workers, options, overwrite=arguments.overwrite, progress=progress
        )
    else:
        report = generate(settings, workers=arguments.workers, overwrite=arguments.overwrite, progress=progress)
    print(report.summary())
    if not report.seconds:
        print("It was finished already: nothing was made.")
    print(f"The dataset is in {arguments.output}: load_dataset({arguments.output!r})")


def _status_alone(argv: Sequence[str]) -> str | None:
    """The folder of `--status FOLDER` or `--status=FOLDER` with nothing else; all else is read as usual."""
    if len(argv) == 2 and argv[0] == "--status":
        return argv[1]
    if len(argv) == 1 and argv[0].startswith("--status="):
        return argv[0].partition("=")[2]
    return None
