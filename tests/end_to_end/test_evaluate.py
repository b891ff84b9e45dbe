# SPDX-License-Identifier: Apache-2.0
"""`tripletclip evaluate` as its users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from hf_tripletclip import load_scenes
from hf_tripletclip.data import build_processor
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.results import EvaluationResult
from tests.end_to_end.conftest import TWO_PROCESSES
from tests.loopback_hub import HubError, LoopbackHub, run_command
from tests.tiny import tiny_config

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown")
EVALUATE = ["-m", "hf_tripletclip.cli", "evaluate"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model in `model/`, SugarCrepe's seven files with images in `sugarcrepe/`, a cache of `scenes`."""
    folder = tmp_path_factory.mktemp("evaluate")
    scenes = load_scenes("test", test_size=14, train_size=1, validation_size=1, image_size=32)
    words = [f"a {colour} cat" for colour in COLOURS]
    processor = build_processor([*scenes["caption"], *scenes["neg_caption"], *words], image_size=16)
    config = tiny_config()
    config.text_config.vocab_size, config.text_config.eos_token_id = (
        len(processor.tokenizer),
        processor.tokenizer.eos_token_id,
    )
    config.text_config.max_position_embeddings = 77
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "sugarcrepe" / "val2017").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (20, 24), colour).save(folder / "sugarcrepe" / "val2017" / f"{number:012}.jpg")
    for number, kind in enumerate(NEGATIVE_TYPES):
        rows = {
            str(3 * row + number): {
                "filename": f"{(row + number) % 7:012}.jpg",
                "caption": f"a {COLOURS[(row + number) % 7]} cat",
                "negative_caption": f"a {COLOURS[(row + 2 * number + 1) % 7]} cat",
            }
            for row in range(2 + number % 3)
        }
        (folder / "sugarcrepe" / f"{kind}.json").write_text(json.dumps(rows))
    return folder


def evaluate(
    place: Path, *flags: object, launcher: list[str] | None = None, hub: LoopbackHub | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    command = [*(launcher or [sys.executable]), *EVALUATE, *map(str, flags)]
    return run_command(command, hub, place / "hf", OMP_NUM_THREADS="1", **env)


def flags_of(place: Path, output: Path) -> list[object]:
    data = (f"sugarcrepe={place / 'sugarcrepe'}", "triplets=scenes")
    return [place / "model", "--data", *data, "--output", output, "--max_rows", 20, "--batch_size", 4]


def results(output: Path) -> dict[str, EvaluationResult]:
    return {path.stem: EvaluationResult.load(path) for path in sorted(output.glob("*/*.json"))}


@pytest.fixture(scope="module")
def one_process(place) -> dict[str, EvaluationResult]:
    done = evaluate(
        place, *flags_of(place, place / "one"), "--benchmarks", "sugarcrepe", "triplets", HF_HUB_OFFLINE="1"
    )
    assert done.returncode == 0, done.stderr
    for shown in ("M parameters", "macro", "95 % interval", "text tower", "tie rate", "0 missing", "group_score"):
        assert shown in done.stdout
    assert "Traceback" not in done.stderr
    return results(place / "one")


def test_files_of_one_process(place, one_process):
    assert list(one_process) == ["sugarcrepe", "triplets"]
    sugarcrepe = one_process["sugarcrepe"]
    assert sugarcrepe.metrics["macro"] == pytest.approx(sum(sugarcrepe.metrics[kind] for kind in NEGATIVE_TYPES) / 7)
    assert sugarcrepe.counts["missing"] == 0
    (table,) = (place / "one").glob("*/sugarcrepe.parquet")
    read = pyarrow.parquet.read_table(table)
    assert read.num_rows == sugarcrepe.counts["rows"] == 20
    assert {"key", "category", "score_i0c0", "score_i0c1", "accuracy", "tie"} <= set(read.column_names)


def test_two_processes_find_what_one_finds(place, one_process, tmp_path):
    flags = [*flags_of(place, tmp_path), "--benchmarks", "sugarcrepe", "triplets", "--device", "cpu"]
    done = evaluate(place, *flags, launcher=TWO_PROCESSES, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("text tower") == 2  # one process prints
    found = results(tmp_path)
    for name, expected in one_process.items():
        assert found[name].to_dict() == expected.to_dict()
        assert found[name].predictions == expected.predictions


@pytest.mark.slow
def test_errors_stop_all_processes(place, tmp_path):
    flags = ["--benchmarks", "triplets", "--output", tmp_path, "--device", "cpu"]
    done = evaluate(place, tmp_path / "no-model", *flags, launcher=TWO_PROCESSES, HF_HUB_OFFLINE="1")
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "no-model is neither a directory that exists nor the id of a Hub repository" in done.stderr


@pytest.mark.slow
def test_one_that_fails_keeps_the_others(place, tmp_path):
    flags = [*flags_of(place, tmp_path), "--benchmarks", "sugarcrepe", "cola", "triplets"]
    flags[2] = f"sugarcrepe={tmp_path / 'nothing'}"
    (tmp_path / "nothing").mkdir()
    done = evaluate(place, *flags, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert errors[0].startswith("error: cola: say where the data of cola is")
    assert f"{tmp_path / 'nothing'} has none of" in errors[1]
    assert "failed: cola, sugarcrepe; the other results are in" in done.stderr
    assert list(results(tmp_path)) == ["triplets"]

    again = evaluate(place, *flags, HF_HUB_OFFLINE="1")
    assert again.returncode == 1
    assert "triplets: kept from" in again.stdout


def test_a_gated_dataset_and_one_that_is_not_there(place, tmp_path, hub):
    handler = hub.server.RequestHandlerClass
    route = handler.route

    def gated(self, path, *rest):
        if "facebook/winoground/resolve/" in path:  # what the repository has is no secret, its files are
            raise HubError(403, "GatedRepo", "Access to dataset facebook/winoground is restricted")
        return route(self, path, *rest)

    handler.route = gated
    hub.add("dataset", "facebook/winoground", {"README.md": b"", "test.parquet": b"x"})
    flags = [place / "model", "--output", tmp_path, "--benchmarks", "winoground", "colorswap"]
    done = evaluate(place, *flags, "--data", "colorswap=someone/absent", hub=hub)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "accept its conditions" in done.stderr
    assert "hf auth login" in done.stderr
    assert "someone/absent" in done.stderr


@pytest.mark.slow
def test_no_network_is_one_message(place, tmp_path):
    done = evaluate(place, "someone/clip", "--benchmarks", "triplets", "--output", tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "error: someone/clip cannot be loaded as a CLIP-like model" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_unknown_benchmark_lists_all(place):
    done = evaluate(place, place / "model", "--benchmarks", "sugar")
    assert done.returncode == 1
    assert "unknown benchmark 'sugar'; there are sugarcrepe, sugarcrepe_pp, " in done.stderr
    assert "the suites default, paper, composition, all" in done.stderr
