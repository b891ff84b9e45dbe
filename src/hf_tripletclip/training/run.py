# SPDX-License-Identifier: Apache-2.0
"""A whole training run: data, model, training, evaluation before and after, and the files in its folder."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from datasets import disable_progress_bars
from huggingface_hub import utils as hub_utils
from torch import nn
from transformers import Trainer, set_seed
from transformers.utils import logging

from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.data import BrokenRows, TripletCollator
from hf_tripletclip.evaluation import evaluate_triplets
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.modeling.auto import default_objective
from hf_tripletclip.objectives import Objective, get_objective
from hf_tripletclip.results import format_before_after
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.checkpointing import CheckpointNotWritten, check_same_run, set_aside_old_run, step_of
from hf_tripletclip.training.evaluation import check_metric_name
from hf_tripletclip.training.launch import launch
from hf_tripletclip.training.output_lock import output_held
from hf_tripletclip.training.record import (
    RunRecord,
    can_plot,
    check_push,
    describe_hardware,
    describe_lora,
    part_of,
    push_run,
    write_run_record,
)
from hf_tripletclip.training.resume_settings import describe_changes, of_scripts
from hf_tripletclip.training.resuming import agree_on_checkpoint
from hf_tripletclip.training.run_inputs import (
    CONVERT_FIRST,
    load_splits,
    make_model,
    make_processor,
    takes_further_texts,
)
from hf_tripletclip.training.script_arguments import (
    DataArguments,
    ModelArguments,
    check_data_is_named,
    parse_arguments,
)
from hf_tripletclip.training.sharding import gathered
from hf_tripletclip.training.steps import TrainingStoppedError
from hf_tripletclip.training.towers import (
    check_lora_is_used,
    check_same_towers,
    describe_towers,
    hold_weights_in,
    prepare_towers,
)
from hf_tripletclip.training.trainer import TripletCLIPTrainer
from hf_tripletclip.training.trainer_setup import check_best_metric

logger = logging.get_logger(__name__)


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
        ValueError: An argument, the data or a checkpoint does not fit; the message says what to do.
    """
    if launch(argv, default_config, prog):
        return {}
    arguments = parse_arguments(argv, default_config, prog=prog)
    check_data_is_named(arguments[0], argv, default_config)
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
        model_args, data_args, args: The arguments of the run.
        last (`bool`, defaults to `True`): Whether this is the last run of these processes: then the model is pushed,
            if `push_to_hub` asks for it, and the process group is closed.
        when_checked (`Callable`, *optional*): Called once arguments and data are known to fit, before the first
            evaluation.
        benchmarks (`Sequence[Benchmark]`): Benchmarks that are measured afterwards, to warn if they are trained on.

    Returns:
        [`~hf_tripletclip.training.record.RunRecord`]: What is known of the run.
    """
    hide_bars(args)
    # Not left to a starting checkpoint's config, which may name the objective that it was trained with.
    of_architecture = default_objective(model_args.model_name_or_path)  # raises if it cannot be trained
    args.objective = args.objective or of_architecture
    objective = get_objective(args.objective, **args.objective_arguments)
    if args.batch_neighbours and args.neighbours is None:
        args.neighbours = data_args.dataset_name_or_path
    model_args.check()
    check_push(args, model_args.model_name_or_path, adapter=model_args.has_lora)
    if model_args.model_name_or_path is None and set(model_args.modes.values()) != {"full"}:
        raise ValueError(
            "`--train_text` and `--train_vision` other than full are for a trained model: name one with "
            "`--model_name_or_path`."
        )
    if model_args.max_text_length is not None and model_args.has_lora:
        raise ValueError(CONVERT_FIRST.format("an adapter holds no positions", model_args.max_text_length))
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
    collator = TripletCollator(
        processor,
        columns=objective.columns,
        max_length=model.max_text_length,
        decode_size=model.image_size if data_args.fast_decode else None,
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
    trainer.resumption.check(checkpoint)
    if checkpoint is not None:
        check_same_run(checkpoint, model.config)
        check_same_towers(checkpoint, trained)
    check_metric_name(args.retention_metric, trainer.benchmarks, model, processor)
    check_best_metric(trainer)
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
    # Not sooner: a user who forgot `--resume_from_checkpoint` is told of other mistakes first.
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
        # An error in the middle of a run needs its traceback, unlike a wrong argument.
        raise RuntimeError(f"Training stopped after step {trainer.state.global_step}: {error}") from error
    hardware = describe_hardware(args, time.monotonic() - started, resumed_from=resumed_from)
    trainer.save_model(_internal_call=True)  # pushed later, with its card
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()

    # The saved model is evaluated. Other machines may not see it, but their processes hold the same weights.
    in_memory = args.world_size > 1 and not trainer.is_deepspeed_enabled
    with gathered(trainer) if in_memory else contextlib.nullcontext(load_clip_like(output_dir)[0]) as final:
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
        towers=f"{towers}.{describe_lora(model_args)}{describe_changes(trainer.resumption.changes)}",
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
    """Hide the progress bars of loading and writing weights, which is fast here; with `disable_tqdm` hide all."""
    logging.disable_progress_bar()
    if args.disable_tqdm:
        disable_progress_bars()
        hub_utils.disable_progress_bars()


def require_writable(output_dir: str | None) -> str:
    """Create the output folder, now: hours of training must not end at a folder that cannot be written."""
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


def release_wrappers(trainer: Trainer) -> None:
    """
    Let go of DDP's wrapper of the model. Its reducer holds the process group: if it outlives the group, the process
    may hang or abort when it exits.
    """
    trainer.accelerator.wait_for_everyone()
    trainer.model_wrapped = cast(nn.Module, trainer.model)
    trainer.accelerator.free_memory()


def end_training(trainer: Trainer) -> None:
    """Close the process group, so that gloo does not abort when the process exits."""
    release_wrappers(trainer)
    trainer.accelerator.end_training()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
