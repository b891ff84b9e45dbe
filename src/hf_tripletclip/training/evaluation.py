# SPDX-License-Identifier: Apache-2.0
"""Evaluation during training: of data that may have broken rows, and of benchmarks.

All processes must gather equally many rows. So a batch keeps a place for each of its rows, broken or not, and a mask
tells which of them count. The labels that are gathered are a tensor `(rows, 3)`: the kind of negative, and numbers of
the picture and of the caption, by which recall knows pictures and captions that stand in several rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.decoding import first_caption
from hf_tripletclip.data.schema import CAPTION, COLUMNS, IMAGE, NEGATIVE_TYPE, NEGATIVE_TYPES
from hf_tripletclip.evaluation import triplet_metrics
from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageRef, content_digest
from hf_tripletclip.evaluation.registry import BENCHMARKS, build_benchmark
from hf_tripletclip.evaluation.triplets import CHANCE
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.results.result import EvaluationResult, main_metrics
from hf_tripletclip.roles import ROLES, TRIPLET
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.gradcache import FIELDS
from hf_tripletclip.training.locked_towers import with_known_images, with_known_outputs
from hf_tripletclip.training.training_batches import columns_of, empty_batch, first_rows, model_inputs, rows_in

USABLE = "usable"  # in a batch: bool `(rows,)`, False if the row is broken and so not in the other tensors
UNKNOWN, BROKEN = -1, -2  # in the labels, beside the indices into NEGATIVE_TYPES

IDENTITIES = "identities"  # in a batch: int64 `(usable rows, 2)`, equal if the picture or the caption is the same

Metrics = Callable[..., dict[str, float]]  # of an `EvalPrediction`


@dataclass
class EvaluationCollator:
    """
    A [`TripletCollator`] whose batches may have broken rows, or no others: `USABLE` tells which rows are not broken,
    and `IDENTITIES` which picture and caption these have.
    """

    collator: TripletCollator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, usable = self.collator.collate(rows)
        there = {id(row) for row in usable}
        if not usable:  # all processes run the model and gather: this one stays with the others
            batch = empty_batch(self.collator)
        # First in the batch: `Trainer` takes the number of rows from the first tensor.
        whole = torch.tensor([id(row) in there for row in rows])
        return {USABLE: whole, **batch, IDENTITIES: self._identities(usable, batch)}

    def _identities(self, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Equal if the final evaluation takes pictures and captions as equal, see `evaluation.images`."""
        found = identities_of_tensors(batch)  # all that is known of an image that is no file, such as an array
        for number, row in enumerate(rows):
            if (digest := content_digest(row[IMAGE])) is not None:
                found[number, 0] = _number(digest)
            caption = first_caption(row[CAPTION]).encode("utf-8", "surrogatepass")
            found[number, 1] = _number(hashlib.sha256(caption).hexdigest())
        return found


def _number(digest: str) -> int:
    return int(digest[:15], 16)  # 60 bits


def identities_of_tensors(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """`IDENTITIES` of a batch, from the model's inputs alone."""
    contents = input_contents(batch, ("image", "text"))
    return torch.stack([contents["image"], contents["text"]], dim=1)


def labels_of(batch: Mapping[str, torch.Tensor], identities: torch.Tensor) -> torch.Tensor:
    """The labels of a batch's rows, int64 `(rows, 3)`."""
    kinds = batch.get(NEGATIVE_TYPE)
    if kinds is None:
        kinds = torch.full((len(identities),), UNKNOWN, device=identities.device)
    return torch.cat([kinds[:, None], identities], dim=1)


def kinds_in(labels: Any) -> Any:
    """The kinds of negatives among labels: only `compositional_metrics` sees the other columns."""
    return labels[:, 0]


def spread(values: torch.Tensor, usable: torch.Tensor, fill: int = 0) -> torch.Tensor:
    """One entry per row of the batch, in shape `(rows, ...)`: of `values` if the row is usable, else `fill`."""
    places = values.new_full((len(usable), *values.shape[1:]), fill)
    places[usable] = values
    return places


def evaluation_collator(trainer: Any, dataset: Any) -> Any:
    """
    The collator of an evaluation, which reads all rows, and their negatives whether the objective trains on them or
    not.

    Args:
        trainer ([`TripletCLIPTrainer`]): With the collator of the training data.
        dataset (`Dataset`, `str`, *optional*): The data, or its name in `eval_dataset`; by default `eval_dataset`.
    """
    collator = trainer.data_collator
    if not isinstance(collator, TripletCollator):
        return collator
    if isinstance(dataset, str) and isinstance(trainer.eval_dataset, dict):
        dataset = trainer.eval_dataset[dataset]
    elif dataset is None:
        dataset = trainer.eval_dataset
    names = columns_of(dataset)
    wanted = dict.fromkeys((*COLUMNS, *trainer.core.objective.columns))
    present = collator.columns if names is None else tuple(name for name in wanted if name in names)
    return EvaluationCollator(
        # Scores are of pairs, and of whole pictures.
        dataclasses.replace(
            with_known_images(trainer.tower_cache, collator),
            columns=present,
            first_negative=True,
            decode_size=None,
            draw_captions=None,
            draw_several=None,
        )
    )


def own_rows(trainer: Any, rows: int) -> torch.Tensor:
    """Bool `(rows,)`: the rows of a batch that accelerate has not added to fill up the last one; those come last."""
    state = trainer.accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return torch.ones(rows, dtype=torch.bool)
    return torch.arange(rows) < state.remainder - trainer.args.process_index * rows


def evaluation_loss(trainer: Any, model: nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    """
    The loss of the rows of all processes, the same on each, and the model's outputs. Without any row the loss is NaN,
    which `Trainer` leaves out. All processes call this.
    """
    args, accelerator, rows = trainer.args, trainer.accelerator, rows_in(inputs)
    if int(accelerator.reduce(torch.tensor(rows, device=args.device), "sum")) == 0:
        outputs = model(**inputs, return_loss=False, return_logits=False)
        return torch.full((), torch.nan, device=args.device), outputs
    loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True)
    if args.world_size > 1:
        # If rows are shared, the mean over the processes is the loss; else each has a loss of its own rows.
        weight = 1 if trainer.shares_rows else rows
        total = accelerator.reduce(torch.stack([loss.float() * weight, loss.new_tensor(weight).float()]), "sum")
        loss = total[0] / total[1]
    return loss, outputs


def predict(
    trainer: Any, model: nn.Module, inputs: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """
    What a batch gives an evaluation.

    Args:
        trainer ([`TripletCLIPTrainer`]): The trainer that evaluates.
        model (`nn.Module`): The model as `Trainer` evaluates it.
        inputs (`dict`): A batch on the model's device.

    Returns:
        The loss, shape `()`; the embeddings by role, `(rows, projection_dim)`; and the labels, int64 `(rows, 3)`. Rows
        that are broken, or that fill up the last batch, have the label `BROKEN`.
    """
    inputs = with_known_outputs(trainer.tower_cache, inputs)
    rows = rows_in(inputs)
    usable = inputs.pop(USABLE, torch.ones(rows, dtype=torch.bool, device=trainer.args.device))
    usable = usable & own_rows(trainer, len(usable)).to(usable.device)
    kept = int(usable.sum())
    identities = inputs.pop(IDENTITIES, None)
    labels = labels_of(inputs, identities_of_tensors(inputs) if identities is None else identities)
    # Several negatives per row belong to the loss; the metrics compare a pair with its one negative.
    roles = [role for role in TRIPLET if len(inputs.get(ROLES[role].model_input, ())) == rows]
    with torch.no_grad(), trainer.compute_loss_context_manager():
        loss, outputs = evaluation_loss(trainer, model, first_rows(model_inputs(inputs), kept, rows))
    embeddings = {role: spread(outputs[FIELDS[role]], usable) for role in roles}
    return loss.detach(), embeddings, spread(labels[:kept], usable, fill=BROKEN)


# ---- Metrics ----


def metric_functions(
    compute_metrics: Metrics | None, preprocess: Callable[..., Any] | None, args: TripletCLIPTrainingArguments
) -> dict[str, Any]:
    """
    The arguments of `Trainer` on metrics. Functions of the user see the kinds of negatives as labels, and the rows
    that are not broken.

    Raises:
        ValueError: `include_for_metrics` asks for more than the metrics here need.
    """
    if args.include_for_metrics and compute_metrics is None:
        raise ValueError(
            "`include_for_metrics` is for your own `compute_metrics`: the metrics here need nothing more."
        )
    given: dict[str, Any] = {
        "compute_metrics": functools.partial(without_broken_rows, compute_metrics or compositional_metrics)
    }
    if preprocess is not None:
        given["preprocess_logits_for_metrics"] = lambda logits, labels: preprocess(logits, kinds_in(labels))
    return given


def without_broken_rows(metrics: Metrics, prediction: EvalPrediction, **kwargs: Any) -> dict[str, float]:
    """`metrics` of the rows that are not broken; an empty dict if all are."""
    labels: Any = prediction.label_ids
    there = kinds_in(labels) != BROKEN
    if not there.any():
        return {}
    gathered: Any = prediction.predictions
    beside = {"inputs": prediction.inputs, "losses": prediction.losses}
    if not there.all():
        gathered, labels, beside = {role: values[there] for role, values in gathered.items()}, labels[there], {}
    if metrics is not compositional_metrics:
        labels = kinds_in(labels)
    return metrics(EvalPrediction(predictions=gathered, label_ids=labels, **beside), **kwargs)


def compositional_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """
    [`~hf_tripletclip.evaluation.triplet_metrics`] of what the trainer's evaluation loop gathered. For the kinds of
    negatives it gives accuracy only, to keep the log readable. As in the final evaluation, recall has several right
    answers if pictures or captions stand in several rows.
    """
    gathered: Any = prediction.predictions
    embeddings = {role: torch.as_tensor(values) for role, values in gathered.items()}
    codes, images, captions = torch.as_tensor(prediction.label_ids).T.tolist()
    kinds = [NEGATIVE_TYPES[code] if code >= 0 else None for code in codes]
    metrics = triplet_metrics(
        embeddings["image"],
        embeddings["text"],
        embeddings.get("negative_image"),
        embeddings.get("negative_text"),
        kinds if any(kinds) else None,
        image_ids=images,
        caption_ids=captions,
    )
    detail = tuple(f"{score}_score_" for score in ("text", "image", "group"))
    metrics = {name: value for name, value in metrics.items() if not name.startswith(detail)}
    return metrics | {f"chance_{name}": value for name, value in CHANCE.items() if name in metrics}


@functools.cache
def compositional_metric_names() -> tuple[str, ...]:
    """All metrics that `compositional_metrics` may give of which higher is better."""
    rows = len(NEGATIVE_TYPES)  # one of each
    labels: Any = torch.arange(rows)[:, None].expand(rows, 3).numpy()
    names: dict[str, None] = {}
    for absent in ("", "negative_text"):
        embeddings: Any = {role: torch.eye(rows).numpy() for role in FIELDS if role != absent}
        names |= dict.fromkeys(compositional_metrics(EvalPrediction(predictions=embeddings, label_ids=labels)))
    return tuple(name for name in names if not name.startswith(("chance_", "tie_rate")))


# ---- Benchmarks as part of an evaluation ----


def make_benchmarks(settings: Mapping[str, Any]) -> list[Benchmark]:
    """
    The benchmarks of `eval_benchmarks`. Their data is looked up now, so that training does not fail at its first
    evaluation.

    Args:
        settings (`Mapping[str, Any]`): Benchmark -> its settings, or where its data is, or `None`.

    Raises:
        OSError: Data or images are missing.
        ValueError: A benchmark or setting is unknown, or the data does not have the form that it should have.
    """
    benchmarks = []
    for name, options in settings.items():
        if not (options is None or isinstance(options, (str, Mapping))):
            raise ValueError(f"`eval_benchmarks` has {options!r} for {name}: give its settings, or where its data is.")
        benchmark = build_benchmark(name, options=options)
        _look_at_data(benchmark)
        benchmarks.append(benchmark)
    return benchmarks


def _look_at_data(benchmark: Benchmark) -> None:
    if type(benchmark).contents is Benchmark.contents:
        return  # it does not list its images
    missing = {image for _, images, _ in benchmark.contents() for image in images if not image.exists()}
    if missing and not benchmark.allow_missing:
        raise FileNotFoundError(
            f"{benchmark.title}: {len(missing)} images are missing, such as {min(image.name for image in missing)}: "
            "say where they are (`images`), or leave their rows out with `allow_missing: true`."
        )


def benchmark_metrics(
    benchmarks: list[Benchmark], model: Any, processor: Any, args: TripletCLIPTrainingArguments
) -> dict[str, float]:
    """
    The main metrics of a model in training, `<benchmark>_<metric>`. All processes call this and get the same.

    Args:
        benchmarks (`list[Benchmark]`): From `make_benchmarks`.
        model ([`TripletCLIPModel`]): The model; it stays in training or evaluation mode.
        processor ([`~transformers.ProcessorMixin`]): Its processor.
        args ([`TripletCLIPTrainingArguments`]): They give the batch size and the precision.
    """
    encoder = Encoder(
        model,
        processor,
        name="the model in training",
        batch_size=args.per_device_eval_batch_size,
        autocast="bfloat16" if args.bf16 else "float16" if args.fp16 else None,
        num_workers=args.dataloader_num_workers,
        progress=not args.disable_tqdm,
    )
    metrics: dict[str, float] = {}
    for benchmark in benchmarks:
        result = benchmark(encoder)
        metrics |= {f"{benchmark.name}_{name}": result.metrics[name] for name in main_metrics(result)}
    return metrics


class _RandomEmbeddings(Encoder):
    """An encoder that reads no image and no caption."""

    def images(self, images: Sequence[ImageRef]) -> tuple[torch.Tensor, dict[int, str]]:
        return self._draw(len(images)), {}

    def texts(self, captions: Sequence[str]) -> torch.Tensor:
        return self._draw(len(captions))

    @staticmethod
    def _draw(rows: int) -> torch.Tensor:
        drawn = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
        return torch.nn.functional.normalize(drawn, dim=-1)


def blank_result(benchmark: Benchmark, model: Any, processor: Any) -> EvaluationResult:
    """
    A benchmark's result with random embeddings: it has the names of the metrics, and needs no forward pass.

    Args:
        benchmark (`Benchmark`): Its data is read.
        model, processor: As of [`~hf_tripletclip.evaluation.Encoder`].

    Raises:
        OSError: The data is missing.
        ValueError: The data does not have the form that it should have.
    """
    return benchmark(_RandomEmbeddings(model, processor, progress=False))


def check_metric_name(
    metric: str | None,
    benchmarks: Sequence[Benchmark],
    model: Any,
    processor: Any,
    *,
    flag: str = "retention_metric",
    further: Sequence[str] = (),
) -> None:
    """
    Check before the first evaluation that evaluations give the metric that a flag names.

    Args:
        metric (`str`, *optional*): Its name, with or without `eval_`.
        benchmarks (`Sequence[Benchmark]`): From `make_benchmarks`.
        model, processor: As of [`~hf_tripletclip.evaluation.Encoder`].
        flag (`str`, defaults to `"retention_metric"`): The flag.
        further (`Sequence[str]`): Other metrics that it may name, such as `loss`.

    Raises:
        ValueError: No evaluation gives it.
    """
    if metric is None:
        return
    name = metric.removeprefix("eval_")
    if name in further:
        return
    # `sugarcrepe_pp_...` is of sugarcrepe_pp, not of sugarcrepe
    of = max((known for known in BENCHMARKS if name.startswith(f"{known}_")), key=len, default=None)
    if of is None:
        if name in compositional_metric_names():
            return
        found = [*further]
        found += [known for known in compositional_metric_names() if not known.endswith(NEGATIVE_TYPES)]
        found += [f"{benchmark.name}_..." for benchmark in benchmarks]
        raise ValueError(f"`{flag}` is {metric!r}, which no evaluation gives; there are {', '.join(found)}.")
    benchmark = next((benchmark for benchmark in benchmarks if benchmark.name == of), None)
    if benchmark is None:
        raise ValueError(f"`{flag}` is {metric!r}, but `eval_benchmarks` has no {of}: say there where its data is.")
    found = [f"{of}_{known}" for known in main_metrics(blank_result(benchmark, model, processor))]
    if name not in found:
        raise ValueError(f"`{flag}` is {metric!r}, which {of} does not give; there are {', '.join(found)}.")
