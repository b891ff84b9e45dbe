# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive a kill at any moment.

`Trainer` writes the files of a checkpoint one after the other, so a killed run leaves a folder that looks like a
checkpoint and is none. A marker, written last and naming each file with its size, tells the two apart.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import CLIPConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import CONFIG_NAME

from hf_tripletclip.checkpoints.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LOGIT_SCALE_FILE

COMPLETE_MARKER = "checkpoint_complete.json"
PREVIOUS = "_previous"  # an older run's checkpoints; `Trainer` pushes no folder that starts so


def mark_complete(checkpoint: str | os.PathLike[str]) -> None:
    """Write the marker of a checkpoint folder whose files are all there."""
    folder = Path(checkpoint)
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE_MARKER
    }
    staged = folder / f"{COMPLETE_MARKER}.tmp"
    staged.write_text(json.dumps({"files": files}, indent=1))
    os.replace(staged, folder / COMPLETE_MARKER)


def unmark(checkpoint: str | os.PathLike[str]) -> None:
    """Remove the marker before the folder is written again."""
    (Path(checkpoint) / COMPLETE_MARKER).unlink(missing_ok=True)


def is_complete(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether the folder has its marker and every file that the marker names, in its size."""
    folder = Path(checkpoint)
    marker = folder / COMPLETE_MARKER
    if not marker.is_file():
        return False
    files: dict[str, int] = json.loads(marker.read_text())["files"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())


def last_complete_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """
    The newest complete checkpoint of a training run.

    Args:
        output_dir (`str` or `os.PathLike`): The run's output folder; it need not exist.

    Returns:
        `str`: Path of the complete `checkpoint-N` with the highest N; `None` where there is none.
    """
    checkpoints = sort_checkpoints(str(output_dir), PREFIX_CHECKPOINT_DIR) if Path(output_dir).is_dir() else []
    return next((path for path in reversed(checkpoints) if is_complete(path)), None)


def set_aside_old_run(output_dir: str | os.PathLike[str]) -> Path | None:
    """
    Before a fresh start: checkpoints of an older run in the folder go into its subfolder `_previous`, so that neither
    resuming nor rotation takes them for this run's, and its final metrics and weights go: an old adapter beside a new
    model, or the other way round, would be opened instead of it. What was in `_previous` is replaced.

    Returns:
        `Path`: The subfolder; `None` where no complete checkpoint was found.
    """
    folder = Path(output_dir)
    for name in ("metrics.json", CONFIG_NAME, ADAPTER_CONFIG, *ADAPTER_WEIGHTS, LOGIT_SCALE_FILE):
        (folder / name).unlink(missing_ok=True)
    for weights in folder.glob("model*.safetensors*"):  # shards and their index, too
        weights.unlink()
    if last_complete_checkpoint(folder) is None:
        return None
    previous = folder / PREVIOUS
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for checkpoint in sort_checkpoints(str(folder), PREFIX_CHECKPOINT_DIR):
        os.replace(checkpoint, previous / Path(checkpoint).name)
    return previous


def check_same_run(checkpoint: str | os.PathLike[str], config: CLIPConfig) -> None:
    """
    Raise `ValueError` where a checkpoint was trained with another objective or is of another model: `Trainer` would
    continue it, on a curve that neither run has.

    Args:
        checkpoint (`str` or `os.PathLike`): A checkpoint folder. One without a `config.json` passes.
        config ([`~transformers.CLIPConfig`]): Of the model that is to continue it.
    """
    if not (Path(checkpoint) / CONFIG_NAME).is_file():
        return
    there, here = (_fields(value) for value in (type(config).from_pretrained(checkpoint), config))
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differing:
        listed = ", ".join(f"{name} is {there.get(name)!r}, not {here.get(name)!r}" for name in differing[:5])
        raise ValueError(f"{checkpoint} is of another run: {listed}. Resume with its settings, or start another run.")


def _fields(config: CLIPConfig) -> dict[str, Any]:
    """The fields that make a run, those of the towers as `text_config.hidden_size`."""
    fields: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, dict) and name.endswith("_config"):
            fields |= {f"{name}.{inner}": part for inner, part in value.items()}
        else:
            fields[name] = value
    incidental = ("architectures", "dtype", "transformers_version", "use_cache", "_name_or_path")  # Trainer sets some
    return {name: value for name, value in fields.items() if name.rpartition(".")[2] not in incidental}


def resolve_checkpoint(resume: str | bool | None, output_dir: str | os.PathLike[str]) -> str | None:
    """
    The checkpoint folder that `resume_from_checkpoint` means.

    Args:
        resume (`str`, `bool`, *optional*):
            A checkpoint folder; or `True` for the newest complete one of `output_dir`; or `None` or `False` for a
            fresh start. The strings "true" and "false" are read as the booleans.
        output_dir (`str` or `os.PathLike`): The run's output folder.

    Returns:
        `str`: The checkpoint; `None` for a fresh start, also where `True` finds no complete checkpoint.

    Raises:
        FileNotFoundError: A folder was named that does not exist.
        ValueError: A folder was named that is no complete checkpoint.
    """
    if isinstance(resume, str) and resume.lower() in ("true", "false"):
        resume = resume.lower() == "true"
    if not resume:
        return None
    if resume is True:
        return last_complete_checkpoint(output_dir)
    folder = Path(resume)
    if not folder.is_dir():
        raise FileNotFoundError(f"`resume_from_checkpoint` names {resume!r}, which is no folder.")
    # A plain Trainer's checkpoint has no marker; the trainer state is the last file that it writes.
    marked = (folder / COMPLETE_MARKER).exists()
    if (marked and not is_complete(folder)) or not (folder / "trainer_state.json").is_file():
        newest = last_complete_checkpoint(folder.parent)
        hint = f"; the newest complete one beside it is {newest}" if newest else ""
        raise ValueError(f"{resume} is not a complete checkpoint{hint}.")
    return str(folder)
