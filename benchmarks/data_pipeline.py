# SPDX-License-Identifier: Apache-2.0
"""Triplets per second of our loader, as a ratio to the published way of reading the tars.

    python benchmarks/data_pipeline.py --output benchmarks/results/data_pipeline.md

Both read the same tars in the published layout (`KEY.image`, `KEY.caption`, `KEY.neg_image`, `KEY.neg_caption`, 512 px
JPEG) on the same machine in the same run, in turns. Both return float32 pixels of 224 px, normalised like CLIP's, and
token ids of both captions. The reference does the same as the code released with TripletCLIP: `__getitem__` decodes
with Pillow, resizes, crops, converts to a tensor and normalises each picture alone, tokenises each caption alone to 77
tokens, and torch's `default_collate` stacks the rows. It finds its rows by an index of the tars, which is not timed.
Results are medians over `--repeats` turns of two times: the wall clock from the start of the workers to the last
batch, and the CPU seconds of all processes, which other work on the machine disturbs least.

The parts of both are timed alone, in one process, each over all rows: the second table. Batches that a worker makes of
one picture show what it costs to hand them over. The ceiling is the ratio of a loader that did nothing but decode and
shrink with what ours decodes and shrinks with, and hand over the batches.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import platform
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from alternating import Times, alternate
from PIL import Image
from result_page import write_page
from torch.utils.data import DataLoader, Dataset, default_collate
from transformers.utils import logging

from hf_tripletclip.data import TripletCollator, build_processor, load_tripletdata
from hf_tripletclip.data.decoding import decode_image
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.pixels import FastPixels

SIZE, TOKENS = 224, 77
WORDS = ("red", "blue", "small", "large", "cat", "dog", "horse", "fish", "on", "under", "beside", "a", "the", "beach")


def picture(seed: int, size: int) -> bytes:
    """Colour fields with grain, which are as hard to decode as a photograph of the same size (0.09 MB at 512 px)."""
    generator = np.random.default_rng(seed)
    fields = Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).resize((size, size), 3)
    grain = generator.normal(0, 6, (size, size, 3))
    buffer = io.BytesIO()
    pixels = np.clip(np.asarray(fields) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def caption(seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, 11))


def write_tars(folder: Path, rows: int, tars: int, size: int) -> list[str]:
    """Write the tars and return all captions."""
    captions = []
    for shard in range(tars):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as archive:
            for row in range(shard * rows // tars, (shard + 1) * rows // tars):
                captions += [caption(2 * row), caption(2 * row + 1)]
                members = {
                    "image": picture(2 * row, size),
                    "caption": captions[-2].encode(),
                    "neg_image": picture(2 * row + 1, size),
                    "neg_caption": captions[-1].encode(),
                }
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{row:09d}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return captions


class Reference(Dataset):
    """The dataset of the published code."""

    def __init__(self, folder: Path, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        self.mean = torch.tensor(processor.image_processor.image_mean).view(3, 1, 1)
        self.std = torch.tensor(processor.image_processor.image_std).view(3, 1, 1)
        self.rows: list[dict[str, tuple[Path, int, int]]] = []
        for path in sorted(folder.glob("*.tar")):
            by_key: dict[str, dict[str, tuple[Path, int, int]]] = {}
            with tarfile.open(path) as archive:
                for info in archive:
                    key, _, extension = info.name.partition(".")
                    by_key.setdefault(key, {})[extension] = (path, info.offset_data, info.size)
            self.rows += by_key.values()
        self.files: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, where: tuple[Path, int, int]) -> bytes:
        path, offset, size = where
        if path not in self.files:
            self.files[path] = open(path, "rb")  # noqa: SIM115 - kept for all rows
        self.files[path].seek(offset)
        return self.files[path].read(size)

    def image(self, content: bytes) -> torch.Tensor:
        """torchvision's Resize, CenterCrop, ToTensor and Normalize, in its operations."""
        return self.floats(self.shrunk(self.decoded(content)))

    def decoded(self, content: bytes) -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    def shrunk(self, image: Image.Image) -> Image.Image:
        scale = SIZE / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        return image.crop((left, top, left + SIZE, top + SIZE))

    def floats(self, image: Image.Image) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.sub_(self.mean).div_(self.std)

    def text(self, content: bytes) -> torch.Tensor:
        return self.tokenizer(
            content.decode(), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        )["input_ids"][0]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor] | None:
        row = self.rows[index]
        try:
            return {
                "pixel_values": self.image(self.read(row["image"])),
                "input_ids": self.text(self.read(row["caption"])),
                "negative_pixel_values": self.image(self.read(row["neg_image"])),
                "negative_input_ids": self.text(self.read(row["neg_caption"])),
            }
        except (OSError, ValueError, KeyError):
            return None


def collate(rows: list[Any]) -> Any:
    return default_collate([row for row in rows if row is not None])


def count(batches: Iterable[dict[str, torch.Tensor]], rows: int) -> None:
    """Read all batches."""
    seen = sum(len(batch["negative_pixel_values"]) for batch in batches)
    assert seen == rows, (seen, rows)


def compare(folder: Path, processor: Any, rows: int, repeats: int, **loading: int) -> dict[str, Times]:
    """The times of reading the tars of a folder in each way; `loading` are arguments of `DataLoader`."""

    def ours(decode_size: int | None) -> None:
        data = load_tripletdata(folder, split="train", streaming=True)
        collator = TripletCollator(processor, decode_size=decode_size)
        count(DataLoader(undecoded(data), collate_fn=collator, **loading), rows)

    ways: dict[str, Callable[[], None]] = {
        "reference": lambda: count(DataLoader(Reference(folder, processor), collate_fn=collate, **loading), rows),
        "ours": lambda: ours(None),
        f"ours, `decode_size={SIZE}`": lambda: ours(SIZE),
    }
    return alternate(ways, repeats, warm=False)


PARTS = ("read", "decode", "resize and crop", "floats", "tokens", "handing over")


def parts(folder: Path, processor: Any, rows: int, repeats: int, batch_size: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds per triplet of the parts of each way, each timed alone, by `PARTS`."""
    dataset = Reference(folder, processor)
    collator = TripletCollator(processor, columns=("caption", "neg_caption"))
    fast = FastPixels(processor.image_processor)
    texts = [{name: dataset.read(row[name]).decode() for name in collator.columns} for row in dataset.rows]

    def read_ours() -> None:
        for _ in undecoded(load_tripletdata(folder, split="train", streaming=True)):
            pass

    def tokens_reference() -> None:
        for row in texts:
            for text in row.values():
                dataset.text(text.encode())

    def tokens_ours() -> None:
        for start in range(0, rows, batch_size):
            collator(texts[start : start + batch_size])

    def pictures(*steps: Callable[[Any], Any]) -> Callable[[], None]:
        def way() -> None:
            for row in dataset.rows:
                for name in ("image", "neg_image"):
                    value: Any = dataset.read(row[name])
                    for step in steps:
                        value = step(value)

        return way

    pair = torch.zeros(3, SIZE, SIZE)
    one = [{"pixel_values": pair, "negative_pixel_values": pair}] * rows
    steps: dict[str, tuple[Callable[[Any], Any], ...]] = {
        "reference": (dataset.decoded, dataset.shrunk, dataset.floats),
        "ours": (decode_image, fast.shrink, lambda box: fast([box])),
    }
    ways: dict[str, Callable[[], None]] = {
        "contents": pictures(),
        "reference tokens": tokens_reference,
        "ours read": read_ours,
        "ours tokens": tokens_ours,
        "handing over": lambda: count(DataLoader(one, batch_size, collate_fn=collate, num_workers=1), rows),
    }
    for name, of in steps.items():
        ways |= {f"{name} {number}": pictures(*of[:number]) for number in (1, 2, 3)}
    taken = {name: 1e3 * times.median() / rows for name, times in alternate(ways, repeats, warm=False).items()}
    found = {}
    for name in steps:
        until = [taken["contents"], *(taken[f"{name} {number}"] for number in (1, 2, 3))]
        pixels = [after - before for before, after in itertools.pairwise(until)]
        start = taken["contents"] if name == "reference" else taken["ours read"]
        found[name] = dict(zip(PARTS, [start, *pixels, taken[f"{name} tokens"], taken["handing over"]], strict=True))
    return found


NOTES = (
    "Tried and dropped: `simplejpeg` and `PyTurboJPEG` give the pixels of Pillow on these pictures, and decode one in "
    "0.89 and 0.90 instead of 0.98 ms of CPU; to make an image of Pillow's of the array takes another 0.15. A loader "
    "that gives the array to torch, without our checks of a file, is 1.08 to 1.13 times as fast.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--tars", type=int, default=4)
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captions = write_tars(folder, options.rows, options.tars, options.image_size)
        processor = build_processor(captions, image_size=SIZE, model_max_length=TOKENS)
        lines = [
            "Written by `python benchmarks/data_pipeline.py --output benchmarks/results/data_pipeline.md`.",
            "",
            f"{options.rows} triplets of {options.image_size} px JPEG in {options.tars} tars, batches of "
            f"{options.batch_size} at {SIZE} px, medians of {options.repeats} turns; {os.cpu_count()} CPU cores, "
            f"torch {torch.__version__}, Pillow {PIL.__version__}, Python {platform.python_version()}, load average "
            f"{os.getloadavg()[1]:.0f} at the start. Reference, in the same run and in turns: Pillow in "
            "`__getitem__`, torchvision's transform per picture, `default_collate`.",
            "",
            "| workers | loader | triplets/s | ratio | triplets per CPU s | ratio |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for workers in options.workers:
            times = compare(
                folder, processor, options.rows, options.repeats, batch_size=options.batch_size, num_workers=workers
            )
            base = times["reference"]
            for way, one in times.items():
                wall, cpu = (options.rows / one.median(clock) for clock in ("wall", "cpu"))
                lines.append(
                    f"| {workers} | {way} | {wall:.0f} | {base.ratio(one, 'wall'):.2f} | {cpu:.0f} | "
                    f"{base.ratio(one):.2f} |"
                )
            if workers == 1:
                whole = {way: 1e3 * one.median() / options.rows for way, one in times.items()}
        difference = _difference(folder, processor, options)
        lines += ["", *difference]
        if 1 in options.workers:
            found = parts(folder, processor, options.rows, options.repeats, options.batch_size)
            lines += ["", *_parts_table(found, whole)]
    write_page([*lines, "", *NOTES], options.output)


def _parts_table(found: dict[str, dict[str, float]], whole: dict[str, float]) -> list[str]:
    """The parts of the time with one worker, and the ceiling."""
    lines = [
        f"| CPU ms per triplet, 1 worker | {' | '.join(PARTS)} | rest | all |",
        f"| {' | '.join(['---'] * (len(PARTS) + 3))} |",
    ]
    for name, each in found.items():
        cells = [*each.values(), whole[name] - sum(each.values()), whole[name]]
        lines.append(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    needed = found["ours"]["decode"] + found["ours"]["resize and crop"]
    over = found["ours"]["handing over"]
    return [
        *lines,
        "",
        "The ceiling explains the ratio: to decode and shrink, with the same decoder and resizing, takes "
        f"{needed:.2f} ms, and with the handing over of the batches, whose memory the system clears, "
        f"{needed + over:.2f} ms: {whole['reference'] / needed:.1f} and {whole['reference'] / (needed + over):.1f} "
        "times as fast as the reference. The rest is the start of the worker and what it does more slowly than one "
        "process alone.",
    ]


def _difference(folder: Path, processor: Any, options: argparse.Namespace) -> list[str]:
    """The difference between our pixels and the reference's, in levels of 255."""
    dataset = Reference(folder, processor)
    rows = [{"image": dataset.read(row["image"])} for row in dataset.rows[: min(16, options.rows)]]
    expected = torch.stack([dataset.image(row["image"]) for row in rows])
    scale = 255 * dataset.std
    lines = []
    for name, size in (("ours", None), (f"ours, `decode_size={SIZE}`", SIZE)):
        pixels = TripletCollator(processor, columns=("image",), decode_size=size)(rows)["pixel_values"]
        levels = ((pixels - expected) * scale).abs()
        lines.append(
            f"Pixels of {name} against the reference: {levels.mean():.3f} of 255 levels apart in the mean, "
            f"{levels.max():.1f} at most."
        )
    return [" ".join(lines)]


if __name__ == "__main__":
    main()
