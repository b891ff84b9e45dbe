# SPDX-License-Identifier: Apache-2.0
"""How long a run would take, from a timed sample of its rows."""

from __future__ import annotations

import copy
import time
from datetime import timedelta

from hf_tripletclip.data.schema import ID
from hf_tripletclip.generation.plan import Unit
from hf_tripletclip.generation.publish import rate
from hf_tripletclip.generation.run import GenerationSettings
from hf_tripletclip.generation.stage import ERROR, Batch


def estimate(settings: GenerationSettings, *, workers: int = 1, price_per_hour: float | None = None) -> str:
    """
    Time each stage on the first rows, its second batch after the first has warmed it up, and say what the whole run
    would take. Nothing is written, and no stage is given more rows than two of its batches: pictures take time, and
    answers cost money.

    Args:
        settings ([`GenerationSettings`]): What would be made.
        workers (`int`, defaults to 1): Processes that would share the work, each with its own device.
        price_per_hour (`float`, *optional*): Of one worker, in any currency.

    Returns:
        `str`: A few lines for the terminal.

    Raises:
        ValueError: As [`generate`] would; also if no row of the sample is usable.
    """
    job = settings.job()
    source = job.source.open()
    split, size = next(iter(source.sizes.items()))
    unit = Unit(0, split, 0, min(size, 2 * next(iter(job.stages.values())).batch_size))
    inputs = {step: job.inputs(step, source) for step in job.stages}
    wanted = {name for step, names in inputs.items() for name in names if job.origin(name, step) is None}
    started = time.perf_counter()
    rows = source.read(unit.split, unit.start, unit.stop, sorted(wanted))
    whole = [place for place, problem in enumerate(source.problems(split, 0, unit.stop)) if problem is None]
    reading = time.perf_counter() - started
    lines = [f"{job.plan.rows:,} rows in {sum(1 for _ in job.plan.units()):,} units of {job.plan.unit_rows}"]
    if not whole:
        raise ValueError(f"All of the first {unit.rows} rows are broken: {source.problems(split, 0, 1)[0]}")
    if len(whole) < unit.rows:
        lines.append(f"{unit.rows - len(whole)} of the first {unit.rows} rows are broken")
    rows = {name: [column[place] for place in whole] for name, column in rows.items()}
    per_row = {"reading": reading / unit.rows}
    for step, original in job.stages.items():
        stage = copy.deepcopy(original)
        if hasattr(stage, "cache_dir"):
            stage.cache_dir = None
        started = time.perf_counter()
        stage.setup()
        lines.append(f"{step}: {stage.label} takes {time.perf_counter() - started:.1f} s to load, once per worker")
        rows = {name: column[: 2 * stage.batch_size] for name, column in rows.items()}
        made: list[Batch] = []
        timed: list[float] = []
        for start in range(0, len(rows[ID]), stage.batch_size):
            batch = {name: rows[name][start : start + stage.batch_size] for name in (ID, *inputs[step])}
            started = time.perf_counter()
            made.append(stage(batch))
            timed.append((time.perf_counter() - started) / len(batch[ID]))
        per_row[step] = sum(timed[1:]) / len(timed[1:]) if len(timed) > 1 else timed[0]
        results = {name: [value for batch in made for value in batch[name]] for name in made[0]}
        usable = [place for place, error in enumerate(results.pop(ERROR)) if error is None]
        if not usable:
            reasons = sorted({str(error) for batch in made for error in batch[ERROR]})
            raise ValueError(f"{step}: none of {len(rows[ID])} sampled rows came through: {'; '.join(reasons[:3])}")
        if len(usable) < len(rows[ID]):
            lines.append(f"{step}: {len(usable)} of {len(rows[ID])} sampled rows came through")
        rows = {name: [column[place] for place in usable] for name, column in {**rows, **results}.items()}
    total = sum(per_row.values()) * job.plan.rows
    for name, seconds in per_row.items():
        lines.append(f"{name}: {rate(1 / max(seconds, 1e-9))} rows/s per worker")
    time_needed = timedelta(seconds=round(total / workers))
    lines.append(f"about {time_needed} on {workers} worker{'s' if workers > 1 else ''}")
    if price_per_hour is not None:
        lines.append(f"about {total / 3600 * price_per_hour:,.2f} at {price_per_hour:g} an hour and worker")
    return "\n".join(lines)
