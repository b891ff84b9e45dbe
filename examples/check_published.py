# SPDX-License-Identifier: Apache-2.0
"""Check that a published checkpoint scores here what independent measurements found: for who has the network.

    python examples/check_published.py --coco COCO --sugarcrepe SUGARCREPE

COCO is a folder with COCO's 5,000 photographs of val2017 in `val2017/` and `annotations/captions_val2017.json`
(https://cocodataset.org/#download), SUGARCREPE the folder `data` of https://github.com/RAIVNLab/sugar-crepe. The
checkpoint, TripletCLIP/CC12M_TripletCLIP_ViTB12, and the processor that it uses, openai/clip-vit-base-patch32, are
downloaded from the Hub; `--model` names a copy of the checkpoint, or another one, which needs other figures
(`--expect NAME=LOW..HIGH`).

The figures were measured on COCO val2017 and SugarCrepe by others than the authors. The exit status is 0 where all are
met, 1 where one is not, or where something is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_tripletclip.cli import run_reporting_errors

MODEL = "TripletCLIP/CC12M_TripletCLIP_ViTB12"
I2T, T2I, MACRO = "image_to_text_recall@1", "text_to_image_recall@1", "sugarcrepe_macro"
# What was measured, in percent; other decoders and resizers of images move a few tenths of a point.
EXPECTED = {I2T: (14.2, 14.6), T2I: (11.3, 11.4), MACRO: (74.5, 74.5)}
TOLERANCE = 0.5


def compare(
    found: Mapping[str, float], expected: Mapping[str, tuple[float, float]], tolerance: float
) -> tuple[list[str], bool]:
    """
    The lines of a table, and whether all figures are within `tolerance` points of what was measured.

    Args:
        found (`Mapping[str, float]`): Metric -> fraction in 0..1.
        expected (`Mapping[str, tuple[float, float]]`): Metric -> lowest and highest measurement, in percent.
        tolerance (`float`): Points of a percent.
    """
    lines = [f"{'':26}{'here':>8}{'expected':>16}"]
    good = True
    for name, (low, high) in expected.items():
        percent = 100 * found[name]
        met = low - tolerance <= percent <= high + tolerance
        good &= met
        span = f"{low:g} to {high:g}" if low < high else f"{low:g}"
        lines.append(f"{name:26}{percent:8.2f}{span:>16}  {'met' if met else 'NOT MET'}")
    return lines, good


def evaluate_checkpoint(
    model: str, coco: Path, sugarcrepe: Path, *, output: str, batch_size: int, device: str | None, num_workers: int
) -> dict[str, float]:
    """
    The metrics of `EXPECTED`, as fractions.

    Raises:
        OSError: The checkpoint or the data is not there.
        ValueError: The data is not what it should be.
    """
    from hf_tripletclip.evaluation import Encoder, Retrieval, SugarCrepe, evaluate

    photographs, annotations = coco / "val2017", coco / "annotations" / "captions_val2017.json"
    for path, what in (
        (photographs, "the photographs of COCO val2017, see https://cocodataset.org/#download"),
        (annotations, "the captions of COCO val2017, see https://cocodataset.org/#download"),
        (sugarcrepe, "the folder data of https://github.com/RAIVNLab/sugar-crepe"),
    ):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: {what}")
    benchmarks = [
        SugarCrepe(annotations=str(sugarcrepe), images=str(photographs)),
        Retrieval(data=str(annotations), images=str(photographs)),
    ]
    encoder = Encoder.from_pretrained(model, device=device, batch_size=batch_size, num_workers=num_workers)
    results = evaluate(encoder, benchmarks, output=output)
    recalls = {name: results["retrieval"].metrics[name] for name in (I2T, T2I)}
    return {**recalls, MACRO: results["sugarcrepe"].metrics["macro"]}


def expectation(text: str) -> tuple[str, tuple[float, float]]:
    """`NAME=LOW..HIGH` or `NAME=VALUE`, in percent."""
    name, _, span = text.partition("=")
    low, _, high = span.partition("..")
    try:
        if name not in EXPECTED:
            raise ValueError(name)
        return name, (float(low), float(high or low))
    except ValueError as error:
        known = ", ".join(EXPECTED)
        raise argparse.ArgumentTypeError(f"write NAME=LOW..HIGH in percent, with NAME one of {known}") from error


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help=f"directory or Hub id (default: {MODEL})")
    parser.add_argument("--coco", type=Path, required=True, help="folder with val2017/ and annotations/")
    parser.add_argument("--sugarcrepe", type=Path, required=True, help="folder of SugarCrepe's seven JSON files")
    parser.add_argument("--expect", type=expectation, action="append", default=[], help="another figure, in percent")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="points of a percent (default: 0.5)")
    parser.add_argument("--output", default="evaluation", help="folder of the results (default: evaluation)")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", help="default: the machine's accelerator, or its CPU")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read images")
    options = parser.parse_args(argv)
    found = evaluate_checkpoint(
        options.model,
        options.coco,
        options.sugarcrepe,
        output=options.output,
        batch_size=options.batch_size,
        device=options.device,
        num_workers=options.num_workers,
    )
    lines, good = compare(found, {**EXPECTED, **dict(options.expect)}, options.tolerance)
    print("\n".join([options.model, *lines]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:])))
