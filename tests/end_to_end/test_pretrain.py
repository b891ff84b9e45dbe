# SPDX-License-Identifier: Apache-2.0
"""`examples/pretrain.py` as its users start it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hf_tripletclip.training.checkpointing import is_complete
from tests.end_to_end.conftest import ACCELERATE, QUIET, TWO_PROCESSES, losses


def test_a_run_leaves_everything_it_promises(example, tmp_path):
    folder = tmp_path / "run"
    finished = example.run(
        folder,
        *("--eval_strategy", "steps", "--eval_steps", "6", "--save_strategy", "steps", "--save_steps", "6"),
        launcher=[*ACCELERATE, "--num_processes", "1", *QUIET],
    )
    for word in ("before", "after", "chance", "accuracy_swap_att", "group_score", "text_to_image_recall@5"):
        assert word in finished.stdout
    assert "Warning" not in finished.stderr
    assert "Traceback" not in finished.stderr

    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"accuracy", "accuracy_macro", "text_score", "image_score", "group_score"} <= metrics.keys()
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in metrics.values())
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 12
    assert [entry["step"] for entry in state["log_history"] if "eval_group_score" in entry] == [6, 12]
    evaluated = next(entry for entry in state["log_history"] if "eval_loss" in entry)
    assert {"eval_accuracy_swap_obj", "eval_text_score", "eval_image_to_text_recall@5"} <= evaluated.keys()
    for name in ("loss_curve.png", "evaluation.png"):
        assert Image.open(folder / name).size > (400, 300)
    assert "data:image/png;base64," in (folder / "examples.html").read_text()
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert (folder / "model.safetensors").is_file()

    # Plain transformers opens it, without this package.
    code = f"""
import sys
from PIL import Image
from transformers import pipeline
classifier = pipeline("zero-shot-image-classification", model={str(folder)!r})
scores = classifier(Image.new("RGB", (32, 32)), candidate_labels=["a red cat", "a blue dog"])
assert len(scores) == 2 and "hf_tripletclip" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=example.environment, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--mini_batch_size", "3")], ids=["plain", "gradcache"])
def test_two_processes_walk_the_curve_of_one_with_the_doubled_batch(example, reference, tmp_path, flags):
    folder = tmp_path / "run"
    example.run(folder, "--use_cpu", *flags, launcher=TWO_PROCESSES)
    assert "| world_size | 2 |" in (folder / "README.md").read_text()
    assert "| world_size | 1 |" in (reference / "README.md").read_text()
    assert losses(folder) == pytest.approx(losses(reference), rel=2e-4)


def test_gradient_caching_walks_the_same_curve(example, reference, tmp_path):
    example.run(tmp_path / "run", "--per_device_train_batch_size", "16", "--mini_batch_size", "5")
    assert losses(tmp_path / "run") == pytest.approx(losses(reference), rel=2e-4)


def test_a_killed_run_continues_the_exact_curve(example, tmp_path):
    flags = ("--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "3", "--save_total_limit", "2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    example.run(whole, *flags)

    process = subprocess.Popen(
        example.command(killed, *flags),
        env=example.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint-6").exists():  # in the middle of writing it, or right after
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(map(is_complete, killed.glob("checkpoint-*")))
    assert not (killed / "metrics.json").exists()

    example.run(killed, *flags, "--resume_from_checkpoint")
    assert losses(killed) == losses(whole)
    assert json.loads((killed / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())
    assert json.loads((killed / "evaluation_before.json").read_text()) == json.loads(
        (whole / "evaluation_before.json").read_text()
    )


def test_several_cpu_processes_that_accelerate_does_not_start_are_noticed(example, tmp_path):
    launcher = [*ACCELERATE, "--cpu", "--num_processes", "2", *QUIET]
    finished = example.run(tmp_path / "run", "--max_steps", "1", launcher=launcher)
    assert "only one was started" in finished.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset_name_or_path", "./no/such/folder"], "The dataset path ./no/such/folder does not exist"),
        (["--objective", "tripletclap"], "unknown objective 'tripletclap'; there are clip, "),
        (["--max_step", "3"], "unknown flag: --max_step (did you mean max_steps?)"),
        (["--config", "absent.yaml"], "absent.yaml does not exist"),
        (["--per_device_train_batch_size", "1"], "at least two rows"),
        (["--per_device_train_batch_size", "999"], "160 rows, fewer than one batch of 999"),
        (["--resume_from_checkpoint", "no/checkpoint"], "no/checkpoint"),
        (["--model_config", '{"projection_dims": 3}'], "projection_dims"),
        (["--scenes_nouns", "2"], "`nouns` is 2"),
        (["--model_name_or_path", "./no/model"], "./no/model"),
    ],
)
def test_errors_are_one_message_before_training(example, tmp_path, flags, message):
    finished = example.run(tmp_path / "run", *flags, status=1)
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "run" / "trainer_state.json").exists()


def test_an_unwritable_output_folder_is_refused(example, tmp_path):
    (tmp_path / "file").write_text("")
    finished = example.run(tmp_path / "file" / "run", status=1)
    assert "cannot be written" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_dataset_without_the_objectives_columns_is_refused(example, tmp_path):
    from datasets import Dataset

    data = tmp_path / "data"
    data.mkdir()
    rows = {"image": [Image.new("RGB", (32, 32))] * 8, "caption": ["a red cat"] * 8}
    Dataset.from_dict(rows).to_parquet(data / "train-0.parquet")
    finished = example.run(tmp_path / "run", "--dataset_name_or_path", str(data), status=1)
    assert "it lacks 'neg_image', 'neg_caption'; it has 'image', 'caption'" in finished.stderr


def test_broken_rows_are_counted_and_do_not_stop_training(example, tmp_path):
    from datasets import Dataset
    from datasets import Image as ImageFeature

    processor = tmp_path / "processor"
    from hf_tripletclip.data import build_processor

    build_processor(["a red cat", "a blue dog"], image_size=32).save_pretrained(processor)
    good = {"image": Image.new("RGB", (32, 32), "red"), "caption": "a red cat"}
    good |= {"neg_image": Image.new("RGB", (32, 32), "blue"), "neg_caption": "a blue dog"}
    features = {"image": ImageFeature(), "neg_image": ImageFeature()}
    data = Dataset.from_list([{**good, "id": f"row-{index}"} for index in range(16)])
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    table = data.to_list()  # images as PIL
    table[3]["caption"] = " "
    Dataset.from_list(table).to_parquet(tmp_path / "train.parquet")
    finished = example.run(
        tmp_path / "run",
        *("--dataset_name_or_path", str(tmp_path / "train.parquet"), "--processor_name_or_path", str(processor)),
        *("--max_steps", "4"),
    )
    assert "1 × empty caption in caption" in finished.stdout
    report = (tmp_path / "run" / "broken_rows.jsonl").read_text()
    assert "row-3" in report


def test_flags_reach_the_run_from_the_command_line_tool(example, tmp_path):
    launcher = [sys.executable, "-m", "hf_tripletclip.cli", "train"]
    command = [*launcher, *example.command(tmp_path / "run", "--max_steps", "1", "--objective", "clip")[2:]]
    subprocess.run(command, check=True, env=example.environment, timeout=120, capture_output=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["objective"] == "clip"
    assert list(losses(Path(tmp_path / "run"))) == [1]
