# SPDX-License-Identifier: Apache-2.0
"""A whole pretraining run: data, model, training, evaluation before and after, and what it leaves in its folder."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict, IterableDataset, disable_progress_bars
from huggingface_hub import utils as hub_utils
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPProcessor, CLIPTextConfig, CLIPVisionConfig, set_seed
from transformers.utils import logging

from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor, load_scenes, load_tripletdata
from hf_tripletclip.data.decoding import BrokenValue, decode_caption, is_several
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import DENSE_CAPTION, PARAPHRASE, TEXT_COLUMNS
from hf_tripletclip.data.streaming import shuffled
from hf_tripletclip.evaluation import evaluate_triplets
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import in_all_processes
from hf_tripletclip.generation.filters import filter_dataset, filters_of
from hf_tripletclip.layouts import load_processor
from hf_tripletclip.layouts.processor import PROCESSOR_FILES, check_processor
from hf_tripletclip.modeling import TripletCLIPModel
from hf_tripletclip.objectives import Objective, get_objective
from hf_tripletclip.results import format_before_after
from hf_tripletclip.training.agreement import agree_on_checkpoint, output_held
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.benchmarks import check_retention_metric
from hf_tripletclip.training.checkpoint_errors import CheckpointNotWritten
from hf_tripletclip.training.checkpointing import check_same_run, set_aside_old_run, step_of
from hf_tripletclip.training.hardware import describe_hardware
from hf_tripletclip.training.launch import launch
from hf_tripletclip.training.record import (
    RunRecord,
    can_plot,
    check_push,
    describe_lora,
    part_of,
    push_run,
    write_run_record,
)
from hf_tripletclip.training.script_arguments import DataArguments, ModelArguments, parse_arguments
from hf_tripletclip.training.settings import describe_changes, of_scripts
from hf_tripletclip.training.steps import TrainingStoppedError
from hf_tripletclip.training.towers import (
    check_lora_is_used,
    check_no_adapter,
    check_same_towers,
    describe_towers,
    hold_weights_in,
    prepare_towers,
)
from hf_tripletclip.training.trainer import TripletCLIPTrainer, end_training, release_wrappers
from hf_tripletclip.utils.cli_arguments import as_mapping

logger = logging.get_logger(__name__)

TRAIN_TOKENIZER = "train"  # instead of a processor's name
DEFAULT_PROCESSOR = "openai/clip-vit-base-patch32"
SHUFFLE_BUFFER = 10_000  # rows of a stream among which the next one is drawn


def main(
    argv: Sequence[str], default_config: str | Path | None = None, *, prog: str | None = None
) -> dict[str, float]:
    """
    Run a pretraining job from command-line arguments, see `parse_arguments`.

    It writes into `output_dir`: the model and processor, `metrics.json` (the final evaluation, name -> number),
    `evaluation_before.json` and `evaluation_after.json` (the same with counts and settings), `trainer_state.json`,
    `loss_curve.png`, `evaluation.png`, `examples.html` and the model card `README.md`.

    Args:
        argv (`Sequence[str]`): Command-line arguments.
        default_config (`str` or `Path`, *optional*): Configuration to use without `--config`: a name or a YAML file.
        prog (`str`, *optional*): What `--help` calls the program; defaults to the script's name.

    Returns:
        `dict[str, float]`: The final metrics, fractions in 0..1; empty if there is nothing to evaluate on, or if
            `--num_processes` or `--accelerate_config` had the run done by other processes.

    Raises:
        OSError: A path does not exist or cannot be written.
        ValueError: An argument, the data or a checkpoint does not fit; says what to do.
    """
    if launch(argv, default_config, prog):
        return {}
    arguments = parse_arguments(argv, default_config, prog=prog)
    check_lora_is_used(argv, arguments[:1])
    after = run_training(*arguments).after
    return {} if after is None else dict(after.metrics)


def run_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TripletCLIPTrainingArguments,
    *,
    last: bool = True,
    when_checked: Callable[[], object] | None = None,
    benchmarks: Sequence[Benchmark] = (),
) -> RunRecord:
    """
    Run a training job; see [`main`].

    Args:
        model_args, data_args, args: What to do.
        last (`bool`, defaults to `True`): Whether these processes do no more after it: then the model is pushed, where
            `push_to_hub` asks for it, and they part.
        when_checked (`Callable`, *optional*): Called once arguments and data are known to fit, before the first
            evaluation.
        benchmarks (`Sequence[Benchmark]`): What is measured afterwards: it is looked up whether that was trained on.

    Returns:
        [`~hf_tripletclip.training.record.RunRecord`]: What its folder tells.
    """
    hide_bars(args)
    # Said here rather than left to a starting checkpoint's config, which may name what it was trained with.
    args.objective = args.objective or TripletCLIPConfig.objective
    objective = get_objective(args.objective, **args.objective_arguments)
    if args.batch_neighbours and args.neighbours is None:
        args.neighbours = data_args.dataset_name_or_path
    model_args.check()
    check_push(args, model_args.model_name_or_path, adapter=model_args.has_lora)
    if model_args.model_name_or_path is None and set(model_args.modes.values()) != {"full"}:
        raise ValueError(
            "`--train_text` and `--train_vision` other than full are for a model that has learned something: name it "
            "with `--model_name_or_path`."
        )
    output_dir = require_writable(args.output_dir)
    with output_held(args):
        return _run(model_args, data_args, args, objective, output_dir, last, when_checked, benchmarks)


def _run(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: TripletCLIPTrainingArguments,
    objective: Objective,
    output_dir: str,
    last: bool,
    when_checked: Callable[[], object] | None,
    benchmarks: Sequence[Benchmark],
) -> RunRecord:
    checkpoint = agree_on_checkpoint(args.resume_from_checkpoint, args)
    if checkpoint is None and args.resume_from_checkpoint:
        logger.warning(f"{output_dir} has no complete checkpoint to resume from: training starts from the beginning.")
    can_plot()
    _warn_about_single_process(args)

    with args.main_process_first(desc="preparing the dataset"):
        data_args.scenes_further_texts |= takes_further_texts(objective)
        splits = load_splits(data_args, model_args, required_columns=objective.columns, seed=args.seed)
    set_seed(args.seed)
    processor = make_processor(model_args, data_args, splits, checkpoint)
    model = make_model(model_args, processor)
    hold_weights_in(model, args.weights_dtype)
    trained: Any = prepare_towers(model, model_args, gradient_checkpointing=bool(args.gradient_checkpointing))
    towers = describe_towers(trained, model_args)
    if args.should_log:
        logger.info(towers)
    train = splits["train"]
    validation, test = splits.get("validation"), splits.get("test")
    if validation is None and args.eval_strategy != "no":
        raise ValueError(
            f"{data_args.dataset_name_or_path!r} has no split {data_args.validation_split!r}: name another with "
            "`--validation_split`, or turn evaluation off with `--eval_strategy no`."
        )
    vision: Any = model.config.vision_config
    collator = TripletCollator(
        processor,
        columns=objective.columns,
        max_length=model.text_model.config.max_position_embeddings,
        decode_size=vision.image_size if data_args.fast_decode else None,
        broken_rows=BrokenRows(Path(output_dir) / "broken_rows.jsonl"),
    )
    trainer = TripletCLIPTrainer(
        model=trained,
        args=args,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
    )
    trainer.run_settings = of_scripts(model_args, data_args)
    trainer.check_resumable(checkpoint)
    if checkpoint is not None:
        check_same_run(checkpoint, model.config)
        check_same_towers(checkpoint, trained)
    check_retention_metric(args.retention_metric, trainer.benchmarks, model, processor)
    trainer.check_best_metric()
    if when_checked is not None:
        when_checked()
    trainer.look_at_data(**{"the test data": test}, **{benchmark.title: benchmark for benchmark in benchmarks})
    evaluate = functools.partial(
        evaluate_triplets,
        processor=processor,
        dataset=test,
        batch_size=args.per_device_eval_batch_size,
        device=args.device,
        broken_rows=collator.broken_rows,
        progress=not args.disable_tqdm,
    )
    before = None if test is None else evaluate(model)
    # Not sooner: whoever forgot `--resume_from_checkpoint` learns of other mistakes first.
    if checkpoint is None and trainer.is_world_process_zero() and (previous := set_aside_old_run(output_dir)):
        logger.warning(f"The checkpoints of an older run in {output_dir} are now in {previous}.")
    trainer.accelerator.wait_for_everyone()
    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    resumed_from = None if checkpoint is None else step_of(checkpoint)  # now: training may delete the checkpoint
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (TrainingStoppedError, CheckpointNotWritten):  # on all processes
        end_training(trainer)
        raise
    except (OSError, ValueError, ImportError) as error:
        if trainer.state.global_step == (resumed_from or 0):
            raise
        # What stops a run in the middle is for its log with all that led to it, unlike a wrong argument.
        raise RuntimeError(f"Training stopped after step {trainer.state.global_step}: {error}") from error
    hardware = describe_hardware(args, time.monotonic() - started, resumed_from=resumed_from)
    trainer.save_model(_internal_call=True)  # pushed later, with its card
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()

    # What was saved is what is evaluated. Other machines may not see it: their processes hold the same weights.
    in_memory = args.world_size > 1 and not trainer.is_deepspeed_enabled
    final = trainer.model if in_memory else load_clip_like(output_dir)[0]
    after = None if test is None else evaluate(final)
    run = RunRecord(
        output_dir=Path(output_dir),
        config=trainer.core.config,
        args=args,
        dataset=data_args.dataset_name_or_path,
        log_history=trainer.state.log_history,
        before=before,
        after=after,
        test=test,
        base_model=model_args.model_name_or_path,
        adapter=model_args.has_lora,
        license=data_args.license,
        towers=f"{towers}.{describe_lora(model_args)}{describe_changes(trainer.changes)}",
        hardware=hardware,
        repo_id=trainer.hub_model_id,
        trained_on=part_of(train, data_args.train_split),
        evaluated_on=part_of(validation, data_args.validation_split)
        if test is None
        else part_of(test, data_args.test_split),
        overlap=trainer.overlap or [],
    )
    if trainer.is_world_process_zero():
        write_run_record(run)
        if before is not None and after is not None:
            print(format_before_after(before, after))
        if collator.broken_rows.counts():
            print(collator.broken_rows.summary())
        print(f"The model and everything about it are in {output_dir}")
    if last:
        push_run(run)  # `train` has waited for what `Trainer` uploads itself
        end_training(trainer)
    else:
        release_wrappers(trainer)
    return run


def hide_bars(args: TripletCLIPTrainingArguments) -> None:
    """Hide the bars of loading and writing weights, which takes no time here; with `disable_tqdm` all."""
    logging.disable_progress_bar()
    if args.disable_tqdm:
        disable_progress_bars()
        hub_utils.disable_progress_bars()


def takes_further_texts(objective: Objective) -> bool:
    """Whether an objective learns from paraphrases or dense captions, which `scenes` writes if it is asked to."""
    return objective.draws_captions or not {PARAPHRASE, DENSE_CAPTION}.isdisjoint(objective.columns)


def scenes_options(data_args: DataArguments, model_args: ModelArguments) -> dict[str, Any]:
    """The arguments of `load_scenes` for the rows that are trained on."""
    options: dict[str, Any] = {"nouns": _nouns(data_args.scenes_nouns), "seed": data_args.scenes_seed}
    if data_args.scenes_further_texts:
        options["further_texts"] = True
    if (size := model_args.image_size) is not None:
        options["image_size"] = size
    for size_of in ("train_size", "validation_size", "test_size"):
        if (rows := getattr(data_args, f"scenes_{size_of}")) is not None:
            options[size_of] = rows
    return options


def load_splits(
    data_args: DataArguments, model_args: ModelArguments, required_columns: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """
    The splits `train`, `validation` and `test`, those that exist, limited to the rows asked for.

    Raises:
        FileNotFoundError: The dataset path does not exist.
        ValueError: The training split is missing, empty or lacks a column.
    """
    name = data_args.dataset_name_or_path
    if name == "scenes":
        options = scenes_options(data_args, model_args)
        loaded = load_scenes(**options)
        if data_args.scenes_test_nouns is not None:
            others = load_scenes(**{**options, "nouns": _nouns(data_args.scenes_test_nouns)})
            loaded = DatasetDict({name: (loaded if name == "train" else others)[name] for name in loaded})
    else:
        loaded = load_tripletdata(
            name,
            streaming=data_args.streaming,
            columns=data_args.columns,
            images=data_args.images,
            required_columns=required_columns,
        )
    if data_args.train_split not in loaded:
        raise ValueError(
            f"{name!r} has no split {data_args.train_split!r} to train on; it has {sorted(loaded)}: name one with "
            "`--train_split`."
        )
    wanted = {
        "train": (data_args.train_split, data_args.max_train_samples),
        "validation": (data_args.validation_split, data_args.max_eval_samples),
        "test": (data_args.test_split, data_args.max_eval_samples),
    }
    for role, (split, _) in wanted.items():
        if split not in loaded and split != role:
            raise ValueError(f"{name!r} has no split {split!r}, which `{role}_split` names; it has {sorted(loaded)}.")
    splits = {}
    for role, (split, limit) in wanted.items():
        if split in loaded:
            dataset = loaded[split]
            if role == "train" and data_args.filters:
                dataset = _within_filters(dataset, data_args)
            if limit is not None:
                dataset = dataset.take(limit)
            if isinstance(dataset, IterableDataset):
                if role == "train":
                    dataset = shuffled(dataset, seed, SHUFFLE_BUFFER)
                else:  # read again and again: worth a copy
                    dataset = Dataset.from_generator(
                        functools.partial(iter, undecoded(dataset)), features=dataset.features
                    )
            splits[role] = dataset
    return splits


def _within_filters(train: Any, data_args: DataArguments) -> Dataset:
    """The training rows within the bounds of their scores."""
    if isinstance(train, IterableDataset):
        raise ValueError("`filters` look at the scores of all rows first: leave out `--streaming`.")
    kept, reasons = filter_dataset(train, filters_of(as_mapping(data_args, "filters")))
    said = ", ".join(f"{reason}: {rows}" for reason, rows in reasons.items())
    if not len(kept):
        raise ValueError(f"`filters` leave none of the {len(train)} training rows ({said}): widen them.")
    logger.info(f"Filters keep {len(kept)} of {len(train)} training rows ({said or 'all'}).")
    return kept


def make_processor(
    model_args: ModelArguments, data_args: DataArguments, splits: dict[str, Any], checkpoint: str | None = None
) -> CLIPProcessor:
    """
    The processor of the checkpoint that training goes on from; else the one asked for, the starting model's, or one
    whose tokenizer is trained on the captions, which is the default on `scenes`. A tokenizer is trained in one process
    and shared with the others.

    Raises:
        ValueError: A tokenizer is to be trained on a stream.
    """
    if checkpoint is not None and any((Path(checkpoint) / name).is_file() for name in PROCESSOR_FILES):
        return load_processor(checkpoint)
    source = model_args.processor_name_or_path or model_args.model_name_or_path
    if source is None:
        source = TRAIN_TOKENIZER if data_args.dataset_name_or_path == "scenes" else DEFAULT_PROCESSOR
    if source != TRAIN_TOKENIZER:
        return load_processor(source)
    train = splits["train"]
    if isinstance(train, IterableDataset):
        raise ValueError(
            f"`--processor_name_or_path {TRAIN_TOKENIZER}` reads all captions first: leave out `--streaming`, or "
            "name a processor."
        )
    main = PartialState().is_main_process
    image_size = model_args.image_size or 224
    shared = [in_all_processes(lambda: build_processor(_captions(train), image_size=image_size) if main else None)]
    broadcast_object_list(shared)
    return shared[0]


def _nouns(value: object) -> Any:
    text = str(value)  # YAML reads a number
    return int(text) if text.isdigit() else text


def _captions(dataset: Dataset) -> Iterator[str]:
    """All captions that can be used: hard negatives, paraphrases and dense captions too."""
    for name in TEXT_COLUMNS:
        for value in dataset[name] if name in dataset.column_names else ():
            for caption in value if is_several(value) else [value]:
                with contextlib.suppress(BrokenValue):
                    yield decode_caption(caption)


def make_model(model_args: ModelArguments, processor: CLIPProcessor) -> TripletCLIPModel:
    """
    The model that training starts from: a checkpoint, or random weights of the sizes asked for.

    Raises:
        ValueError: `model_config` has an unknown field or sizes that do not fit each other, or the text tower does not
            read captions as the tokenizer writes them.
    """
    kwargs: dict[str, Any] = dict(model_args.loading_arguments())
    if model_args.attn_implementation is not None:
        kwargs["attn_implementation"] = model_args.attn_implementation
    tokenizer = processor.tokenizer
    if model_args.model_name_or_path is not None:
        if model_args.model_config:
            raise ValueError("`model_config` is for random weights: leave it out beside `model_name_or_path`.")
        check_no_adapter(model_args.model_name_or_path)
        model = TripletCLIPModel.from_pretrained(model_args.model_name_or_path, **kwargs)
        check_processor(model, processor)
        return model
    settings = dict(model_args.config_fields)
    text = {
        "vocab_size": len(tokenizer),
        # A tokenizer that names no length has a huge one.
        "max_position_embeddings": min(tokenizer.model_max_length, CLIPTextConfig.max_position_embeddings),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_mapping(settings, "text_config"),
    }
    vision = _mapping(settings, "vision_config")
    parts = (("", TripletCLIPConfig, settings), ("text_config", CLIPTextConfig, text))
    for part, config_class, values in (*parts, ("vision_config", CLIPVisionConfig, vision)):
        if unknown := [name for name in values if name not in {field.name for field in fields(config_class)}]:
            raise ValueError(f"`model_config` has unknown fields {unknown}{f' in {part!r}' if part else ''}.")
    if "projection_dim" in settings:
        text.setdefault("projection_dim", settings["projection_dim"])
        vision.setdefault("projection_dim", settings["projection_dim"])
    try:
        config = TripletCLIPConfig(text_config=text, vision_config=vision, **settings)
        image: Any = config.vision_config
        if image.patch_size > image.image_size:
            raise ValueError("an image is smaller than a patch")
        model = TripletCLIPModel._from_config(config, **kwargs)
    except (StrictDataclassError, ValueError, TypeError, KeyError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"`model_config` describes no CLIP: {error}") from error
    check_processor(model, processor)
    return model


def _mapping(settings: dict[str, Any], name: str) -> dict[str, Any]:
    part = settings.pop(name, None) or {}
    if not isinstance(part, dict):
        raise ValueError(f"`model_config` has {part!r} as {name!r}: give fields and their values.")
    return part


def require_writable(output_dir: str | None) -> str:
    """Create the output folder now: hours of training must not end in a folder that cannot be written."""
    assert output_dir is not None  # TrainingArguments has a default
    try:
        os.makedirs(output_dir, exist_ok=True)
        probe = Path(output_dir) / ".write_test"
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"The output folder {output_dir!r} cannot be written: {error}") from error
    return output_dir


def _warn_about_single_process(args: TripletCLIPTrainingArguments) -> None:
    # `accelerate launch --cpu --num_processes 2` (1.15) sets an address for the processes, then starts one only.
    if args.world_size == 1 and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        logger.warning(
            "Several processes were asked for but only one was started: `accelerate launch` does so on CPU. "
            "See 'Several processes' in docs/scaling.md for the form that works."
        )
