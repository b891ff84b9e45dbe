# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: which are complete, which may go, and what happens when one cannot be read or written.

`Trainer` writes the files of a checkpoint one after the other, so a killed run may leave a folder that looks like a
checkpoint but is incomplete. A marker is written last and names each file with its size and digest. It tells complete
checkpoints from others, and shows later whether the disk has kept what was written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from transformers import CLIPConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import CONFIG_NAME, logging

from hf_tripletclip.layouts.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LOGIT_SCALE_FILE
from hf_tripletclip.utils.files import as_os_error

logger = logging.get_logger(__name__)

COMPLETE_MARKER = "checkpoint_complete.json"
PREVIOUS = "_previous"  # an older run's checkpoints; `Trainer` pushes no folder whose name starts with `_`

# What the libraries raise that read or write the files of a checkpoint.
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    IndexError,
    AssertionError,
    pickle.UnpicklingError,
    SafetensorError,
)
UNWRITABLE = (OSError, RuntimeError, SafetensorError)


def mark_complete(checkpoint: str | os.PathLike[str]) -> None:
    """Write the marker into a checkpoint folder that has all its files."""
    folder = Path(checkpoint)
    files = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(COMPLETE_MARKER)
    }
    content = {
        "files": {name: path.stat().st_size for name, path in files.items()},
        "sha256": {name: file_digest(path) for name, path in files.items()},
    }
    staged = folder / f"{COMPLETE_MARKER}.tmp"
    staged.write_text(json.dumps(content, indent=1))
    os.replace(staged, folder / COMPLETE_MARKER)


def unmark(checkpoint: str | os.PathLike[str]) -> None:
    """Remove the marker before the checkpoint is written again."""
    (Path(checkpoint) / COMPLETE_MARKER).unlink(missing_ok=True)


def damage(checkpoint: str | os.PathLike[str], *, contents: bool = True) -> str | None:
    """
    What is wrong with a checkpoint folder.

    Args:
        checkpoint (`str` or `os.PathLike`): The folder.
        contents (`bool`, defaults to `True`): Whether to read all files and compare their digests, which markers of
            older versions do not have. If `False`, only names and sizes are compared.

    Returns:
        `str`: Half a sentence, such as "optimizer.pt is missing"; `None` if nothing is wrong.
    """
    folder = Path(checkpoint)
    marker = folder / COMPLETE_MARKER
    if not marker.is_file():
        return "it was not finished"
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        sizes = {str(name): int(size) for name, size in content["files"].items()}
        digests = {str(name): str(digest) for name, digest in content.get("sha256", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{COMPLETE_MARKER} cannot be read"
    if not sizes:
        return f"{COMPLETE_MARKER} names no files"
    stamps = []
    for name, size in sizes.items():
        try:
            found = (folder / name).stat()
        except OSError:
            return f"{name} is missing"
        if found.st_size != size:
            return f"{name} has {found.st_size} bytes instead of {size}"
        stamps.append((name, digests.get(name), found.st_size, found.st_mtime_ns))
    return _other_contents(folder, tuple(stamps)) if contents else None


@functools.lru_cache(maxsize=64)
def _other_contents(folder: Path, stamps: tuple[tuple[str, str | None, int, int], ...]) -> str | None:
    """The first file whose contents have changed since they were written. Large files are read once per process."""
    for name, digest, *_ in stamps:
        try:
            if digest is not None and file_digest(folder / name) != digest:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
    return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            found.update(piece)
    return found.hexdigest()


def is_complete(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether the folder has its marker and every file that the marker names, as it was written."""
    return damage(checkpoint) is None


def checkpoints_of(output_dir: str | os.PathLike[str]) -> list[str]:
    """The folders `checkpoint-N` of a run, complete or not, in the order of N."""
    return sort_checkpoints(str(output_dir), PREFIX_CHECKPOINT_DIR) if Path(output_dir).is_dir() else []


def last_complete_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """
    The newest complete checkpoint of a training run. Newer ones that are damaged or unfinished are passed over, with a
    warning.

    Args:
        output_dir (`str` or `os.PathLike`): The run's output folder; it need not exist.

    Returns:
        `str`: Path of the complete `checkpoint-N` with the highest N; `None` if there is none.
    """
    passed_over: list[str] = []
    found = None
    for path in reversed(checkpoints_of(output_dir)):
        if (wrong := damage(path)) is None:
            found = path
            break
        passed_over.append(f"{Path(path).name} ({wrong})")
    if passed_over:
        logger.warning(
            f"Passed over in {output_dir}: {', '.join(passed_over)}. "
            + (f"The newest whole checkpoint is {Path(found).name}." if found else "No checkpoint is whole.")
        )
    return found


def set_aside_old_run(output_dir: str | os.PathLike[str], keep: str | os.PathLike[str] | None = None) -> Path | None:
    """
    Clear a folder of an older run before a fresh start. Its checkpoints are moved to the subfolder `_previous`, where
    they replace older ones, so that neither resuming nor rotation takes them for this run's. Its final metrics and
    weights are deleted: an old adapter beside a new model, or the other way round, would be opened instead of it.

    Args:
        output_dir (`str` or `os.PathLike`): The folder.
        keep (`str` or `os.PathLike`, *optional*): A checkpoint that the run starts from; it is not removed.

    Returns:
        `Path`: The subfolder; `None` if there was no complete checkpoint.
    """
    folder = Path(output_dir)
    for name in ("metrics.json", CONFIG_NAME, ADAPTER_CONFIG, *ADAPTER_WEIGHTS, LOGIT_SCALE_FILE):
        (folder / name).unlink(missing_ok=True)
    for weights in folder.glob("model*.safetensors*"):  # shards and their index, too
        weights.unlink()
    checkpoints = checkpoints_of(folder)
    if not any(damage(path, contents=False) is None for path in checkpoints):
        return None
    return _set_aside(folder, checkpoints, keep)


def set_aside_later(output_dir: str | os.PathLike[str], checkpoint: str | os.PathLike[str]) -> Path | None:
    """
    Move later checkpoints to `_previous` before a run goes on from an earlier one: they are damaged, unfinished, or of
    a course that the run leaves. If it goes on from a checkpoint in another folder, all that are here are moved, as
    before a fresh start.

    Args:
        output_dir (`str` or `os.PathLike`): The run's folder.
        checkpoint (`str` or `os.PathLike`): The checkpoint that the run goes on from.

    Returns:
        `Path`: The subfolder; `None` if there was nothing to move.
    """
    kept = Path(checkpoint).resolve()
    checkpoints = checkpoints_of(output_dir)
    places = [Path(path).resolve() for path in checkpoints]
    if kept not in places:
        return set_aside_old_run(output_dir, keep=checkpoint)
    later = checkpoints[places.index(kept) + 1 :]
    return _set_aside(Path(output_dir), later, checkpoint) if later else None


def _set_aside(folder: Path, checkpoints: Sequence[str], keep: str | os.PathLike[str] | None) -> Path:
    previous = folder / PREVIOUS
    if keep is not None and previous.resolve() in Path(keep).resolve().parents:  # what the run goes on from stays
        previous = folder / f"{PREVIOUS}_2"
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for checkpoint in checkpoints:
        os.replace(checkpoint, previous / Path(checkpoint).name)
    return previous


def rotate(checkpoint: str | os.PathLike[str], limit: int | None, best: str | None) -> None:
    """
    Delete the oldest checkpoints of a run, so that no more than a limit stay. Checkpoints of a later step than the
    newest are not of this run: they neither count nor are deleted.

    Args:
        checkpoint (`str` or `os.PathLike`): The newest, which was written just now.
        limit (`int`, *optional*): How many stay, always with the newest and the best; `None` or 0 for all.
        best (`str`, *optional*): The best checkpoint.
    """
    if not limit or limit < 0:
        return
    newest = Path(checkpoint)
    paths = [Path(path) for path in checkpoints_of(newest.parent)]
    paths = paths[: paths.index(newest) + 1] if newest in paths else paths
    protected = {newest.resolve()} | ({Path(best).resolve()} if best else set())
    excess = len(paths) - max(limit, len(protected))
    for path in [path for path in paths if path.resolve() not in protected][: max(excess, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def check_same_run(checkpoint: str | os.PathLike[str], config: CLIPConfig) -> None:
    """
    Raise `ValueError` if a checkpoint was trained with another objective or has another model: `Trainer` would go on
    from it, with a loss curve of neither run.

    Args:
        checkpoint (`str` or `os.PathLike`): A checkpoint folder. One without a `config.json` passes.
        config ([`~transformers.CLIPConfig`]): The config of the model that is to go on from it.
    """
    if not (Path(checkpoint) / CONFIG_NAME).is_file():
        return
    there, here = (_fields(value) for value in (type(config).from_pretrained(checkpoint), config))
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differing:
        listed = ", ".join(f"{name} is {there.get(name)!r}, not {here.get(name)!r}" for name in differing[:5])
        raise ValueError(f"{checkpoint} is of another run: {listed}. Resume with its settings, or start another run.")


def _fields(config: CLIPConfig) -> dict[str, Any]:
    """The fields that distinguish runs; those of the towers have names such as `text_config.hidden_size`."""
    fields: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, dict) and name.endswith("_config"):
            fields |= {f"{name}.{inner}": part for inner, part in value.items()}
        else:
            fields[name] = value
    # Trainer sets some, such as the ids of the tokenizer. Where a caption ends has its own check.
    incidental = {"architectures", "dtype", "transformers_version", "use_cache", "_name_or_path"}
    incidental |= {"bos_token_id", "pad_token_id"}
    return {name: value for name, value in fields.items() if name.rpartition(".")[2] not in incidental}


def resolve_checkpoint(resume: str | bool | None, output_dir: str | os.PathLike[str]) -> str | None:
    """
    The checkpoint folder that `resume_from_checkpoint` means.

    Args:
        resume (`str`, `bool`, *optional*):
            A checkpoint folder; `True` for the newest complete one of `output_dir`; `None` or `False` for a fresh
            start. The strings "true" and "false" are read as booleans.
        output_dir (`str` or `os.PathLike`): The run's output folder.

    Returns:
        `str`: The checkpoint; `None` for a fresh start, also if `True` finds no complete checkpoint.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder is no complete checkpoint.
    """
    resume = as_flag(resume)
    if not resume:
        return None
    if resume is True:
        return last_complete_checkpoint(output_dir)
    folder = Path(resume)
    if not folder.is_dir():
        raise FileNotFoundError(f"`resume_from_checkpoint` names {resume!r}, which is no folder.")
    # A plain Trainer's checkpoint has no marker; the trainer state is the last file that it writes.
    marked = (folder / COMPLETE_MARKER).exists()
    wrong = damage(folder) if marked else None
    if wrong is None and not (folder / "trainer_state.json").is_file():
        wrong = "trainer_state.json is missing"
    if wrong is not None:
        newest = next((path for path in reversed(checkpoints_of(folder.parent)) if is_complete(path)), None)
        hint = f"; the newest complete one beside it is {newest}" if newest else ""
        raise ValueError(f"{resume} is not a complete checkpoint{hint}. What is wrong with it: {wrong}.")
    return str(folder)


def as_flag(resume: str | bool | None) -> str | bool | None:
    """`resume_from_checkpoint`, with the strings "true" and "false" read as the booleans."""
    if isinstance(resume, str) and resume.lower() in ("true", "false"):
        return resume.lower() == "true"
    return resume


def require_optimizer(checkpoint: str | os.PathLike[str]) -> None:
    """
    Raise `ValueError` if a checkpoint has only the model: `Trainer` would go on with a fresh optimizer and with the
    learning rate of the first step.
    """
    folder = Path(checkpoint)
    names = {path.name for path in folder.iterdir()}
    if not any(name.startswith(("optimizer", "global_step", "pytorch_model_fsdp")) for name in names):
        raise ValueError(
            f"{folder} has the model alone, without its optimizer (`save_only_model`): training cannot go on from it. "
            f"Start another run from its weights: `--model_name_or_path {folder}`."
        )


def step_of(checkpoint: str | os.PathLike[str]) -> int:
    """The step of a checkpoint. Raises `ValueError` if its trainer state cannot be read."""
    path = Path(checkpoint) / "trainer_state.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: the checkpoint is damaged.") from error


def visible(resume: str | bool | None, output_dir: str | os.PathLike[str]) -> dict[str, str]:
    """The checkpoints that `resume` may mean, as this process sees them: name -> digest of the marker."""
    resume = as_flag(resume)
    paths: Sequence[str] = [resume] if isinstance(resume, str) else checkpoints_of(output_dir)
    seen = {}
    for path in map(Path, paths):
        marker = path / COMPLETE_MARKER
        if marker.is_file():
            seen[path.name] = file_digest(marker)
        elif isinstance(resume, str) and path.is_dir():
            seen[path.name] = "no marker"
    return seen


# ---- Errors while a checkpoint is read or written ----


@contextlib.contextmanager
def reading_of(checkpoint: str | None) -> Iterator[None]:
    """Name the checkpoint in the error if one of its files cannot be read."""
    try:
        yield
    except UNREADABLE as error:
        if checkpoint is None or (isinstance(error, ValueError) and str(checkpoint) in str(error)):
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"{checkpoint} cannot be read: {lines[0]}. It is damaged, or of another model; resume from another one."
        ) from error


class CheckpointNotWritten(OSError):
    """A checkpoint could not be written; those before it are whole."""


class WriteErrors:
    """
    Errors while files are written. Inside a checkpoint an error is kept until all processes have written their part,
    because they wait for each other in the middle of it; elsewhere it is raised at once.

    Attributes:
        kept (`list[Exception]`, *optional*): The errors of the checkpoint that is being written; `None` if none is.
    """

    def __init__(self) -> None:
        self.kept: list[Exception] | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """
        Raises:
            OSError: A file could not be written, and no checkpoint is being written.
        """
        try:
            yield
        except Exception as error:
            of_system = as_os_error(error)
            if self.kept is not None and (of_system or isinstance(error, UNWRITABLE)):
                self.kept.append(of_system or error)
            elif of_system is not None or isinstance(error, SafetensorError):
                raise OSError(f"The model could not be written: {of_system or error}") from error
            else:
                raise

    @contextlib.contextmanager
    def of_checkpoint(self) -> Iterator[list[Exception]]:
        """Keep the errors of a checkpoint that is written in this context, in the list that it gives."""
        self.kept = []
        try:
            yield self.kept
        finally:
            self.kept = None


def report_together(checkpoint: str, errors: Sequence[Exception], trainer: Any) -> None:
    """
    Remove a checkpoint and raise an error on all processes if one could not write its part. All processes call this.

    Args:
        checkpoint (`str`): The folder.
        errors (`Sequence[Exception]`): What went wrong in this process.
        trainer ([`TripletCLIPTrainer`]): For its arguments and its processes.

    Raises:
        CheckpointNotWritten: A process could not.
    """
    args = trainer.args
    told = [f"{type(errors[0]).__name__}: {errors[0]}" if errors else None]
    everyone = gather_object(told) if args.world_size > 1 else told
    failed = [index for index, one in enumerate(everyone) if one]
    if not failed:
        return
    last = None
    if args.should_save:
        shutil.rmtree(checkpoint, ignore_errors=True)
        others = reversed(checkpoints_of(Path(checkpoint).parent))
        last = next((path for path in others if damage(path) is None), None)
    trainer.accelerator.wait_for_everyone()
    last = broadcast_object_list([last])[0]
    reason = str(everyone[failed[0]]).splitlines()[0]
    who = f" by process {failed[0]}" if args.world_size > 1 else ""
    with contextlib.suppress(OSError):
        reason += f" ({shutil.disk_usage(Path(checkpoint).parent).free / 1e6:,.0f} MB are free there)"
    raise CheckpointNotWritten(
        f"{checkpoint} could not be written{who}, and what there was of it is removed: {reason}. "
        + (f"The last whole checkpoint is {last}: make room, then resume." if last else "There is no other yet.")
    ) from (errors[0] if errors else None)
