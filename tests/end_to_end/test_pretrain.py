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
from datasets import Dataset
from huggingface_hub import ModelCard
from PIL import Image
from transformers import CLIPModel

from hf_tripletclip import load_processor, load_scenes
from hf_tripletclip.data import build_processor
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.registry import build_benchmark
from hf_tripletclip.results.result import main_metrics
from hf_tripletclip.training.checkpointing import is_complete
from hf_tripletclip.training.launch import ACCELERATE_CONFIGS
from tests.end_to_end.conftest import ACCELERATE, QUIET, TWO_PROCESSES, losses
from tests.loopback_hub import run_command
from tests.training.test_overlap import data as pictures


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
    assert "data:image/jpeg;base64," in (folder / "examples.html").read_text()
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
        (["--max_step", "3"], "unknown flag: --max_step (did you mean --max_steps?)"),
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
    data = tmp_path / "data"
    data.mkdir()
    rows = {"image": [Image.new("RGB", (32, 32))] * 8, "caption": ["a red cat"] * 8}
    Dataset.from_dict(rows).to_parquet(data / "train-0.parquet")
    finished = example.run(tmp_path / "run", "--dataset_name_or_path", str(data), status=1)
    assert "it lacks 'neg_image', 'neg_caption'; it has 'image', 'caption'" in finished.stderr


def write_triplets(folder: Path, split: str, rows: int, broken: tuple[int, ...] = (), shards: int = 1) -> None:
    """Parquet of a split, with an empty caption in the broken rows."""
    dataset = load_scenes("test", test_size=42, train_size=1, validation_size=1, image_size=32)
    table = [dict(dataset[index % len(dataset)], id=f"{split}-{index}") for index in range(rows)]
    for index in broken:
        table[index]["caption"] = " "
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        part = Dataset.from_list(table[shard::shards], features=dataset.features)
        part.to_parquet(folder / f"{split}-{shard}.parquet")


@pytest.fixture(scope="session")
def triplets(tmp_path_factory) -> list[str]:
    """Flags for a dataset of files of which some rows are broken, a whole batch of the validation split among them."""
    folder = tmp_path_factory.mktemp("triplets")
    write_triplets(folder / "data", "train", 64, broken=(3,), shards=2)
    write_triplets(folder / "data", "validation", 18, broken=(1, *range(8, 16)))
    write_triplets(folder / "data", "test", 21, broken=(20,))
    captions = [*Dataset.from_parquet(str(folder / "data" / "train-0.parquet"))["caption"]]
    build_processor(captions, image_size=32).save_pretrained(folder / "processor")
    return ["--dataset_name_or_path", str(folder / "data"), "--processor_name_or_path", str(folder / "processor")]


def test_broken_rows_are_counted_and_do_not_stop_training(example, triplets, tmp_path):
    finished = example.run(tmp_path / "run", *triplets, "--max_steps", "8", "--per_device_eval_batch_size", "8")
    assert "2 × empty caption in caption" in finished.stdout  # evaluation during training is off
    report = (tmp_path / "run" / "broken_rows.jsonl").read_text()
    assert "train-3" in report
    assert "test-20" in report
    assert json.loads((tmp_path / "run" / "evaluation_after.json").read_text())["counts"]["rows"] == 20


def test_two_processes_stream_and_evaluate_data_with_broken_rows(example, triplets, tmp_path):
    flags = (*triplets, "--streaming", "--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2")
    one, two = tmp_path / "one", tmp_path / "two"
    example.run(one, *flags, "--per_device_eval_batch_size", "8")
    example.run(two, "--use_cpu", *flags, "--per_device_eval_batch_size", "4", launcher=TWO_PROCESSES)

    before = [json.loads((run / "evaluation_before.json").read_text()) for run in (one, two)]
    assert before[1]["counts"] == before[0]["counts"]
    assert before[1]["metrics"] == before[0]["metrics"]
    for run in (one, two):
        history = json.loads((run / "trainer_state.json").read_text())["log_history"]
        evaluated = [entry for entry in history if "eval_accuracy" in entry]
        assert [entry["step"] for entry in evaluated] == [2, 4]
        # 9 of the 18 rows are usable
        assert all((entry["eval_accuracy"] * 9) % 1 == pytest.approx(0, abs=1e-6) for entry in evaluated)
        report = (run / "broken_rows.jsonl").read_text()
        assert all(f"validation-{row}" in report for row in (1, *range(8, 16)))


def test_flags_reach_the_run_from_the_command_line_tool(example, tmp_path):
    launcher = [sys.executable, "-m", "hf_tripletclip.cli", "train"]
    command = [*launcher, *example.command(tmp_path / "run", "--max_steps", "1", "--objective", "clip")[2:]]
    subprocess.run(command, check=True, env=example.environment, timeout=120, capture_output=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["objective"] == "clip"
    assert list(losses(Path(tmp_path / "run"))) == [1]


def test_a_run_is_pushed_with_its_own_card(example, hub, tmp_path):
    command = example.command(
        tmp_path / "run", "--max_steps", "2", "--push_to_hub", "--hub_model_id", "user/scenes-clip"
    )
    finished = run_command(command, hub, tmp_path / "home")
    assert "hf_" not in finished.stdout + finished.stderr
    files = hub.files("model", "user/scenes-clip")
    assert {"model.safetensors", "tokenizer.json", "metrics.json", "evaluation.png", "loss_curve.png"} <= files.keys()
    card = ModelCard(files["README.md"].decode())
    assert card.data.model_name == "scenes-clip"
    assert 'TripletCLIPModel.from_pretrained("user/scenes-clip")' in card.text
    here = ModelCard.load(tmp_path / "run" / "README.md").text
    assert card.text.split("## Training")[1] == here.split("## Training")[1]
    assert "patel2024tripletclip" in card.text
    assert not [name for name in files if "checkpoint" in name]


def test_the_log_and_the_card_of_a_run_say_it(example, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pictures(*range(16)).to_parquet(folder / "train-0.parquet")
    pictures(1, 2, 40, 41).to_parquet(folder / "test-0.parquet")
    finished = example.run(
        tmp_path / "run",
        *("--dataset_name_or_path", str(folder), "--processor_name_or_path", "train", "--max_steps", "2"),
    )
    sentence = "2 of 4 rows of the test data have a picture that is also trained on"
    assert f"Evaluated on training data: {sentence}" in finished.stderr
    assert f"**Evaluated on training data.** {sentence}" in ModelCard.load(tmp_path / "run" / "README.md").text


def test_the_command_starts_two_processes_itself(example, reference, tmp_path):
    launcher = [sys.executable, "-m", "hf_tripletclip.cli", "train"]
    command = [*launcher, *example.command(tmp_path / "run", "--use_cpu", "--num-processes", "2")[2:]]
    subprocess.run(command, check=True, env=example.environment, timeout=300, capture_output=True)
    assert "| world_size | 2 |" in (tmp_path / "run" / "README.md").read_text()
    assert losses(tmp_path / "run") == pytest.approx(losses(reference), rel=2e-4)


def test_the_command_shards_a_model(example, tmp_path):
    """Its benchmarks in training are those of the model that it saves."""
    launcher = [sys.executable, "-m", "hf_tripletclip.cli", "train"]
    config = tmp_path / "fsdp2.yaml"
    config.write_text((ACCELERATE_CONFIGS / "fsdp2.yaml").read_text().replace("precision: bf16", 'precision: "no"'))
    benchmarks = {"triplets": {"data": "scenes", "max_rows": 9}, "zeroshot": {"data": "scenes", "max_rows": 9}}
    flags = [
        "--accelerate_config",
        str(config),
        "--num_processes",
        "2",
        "--max_steps",
        "4",
        "--save_strategy",
        "steps",
    ]
    flags += ["--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2"]
    command = [*launcher, *example.command(tmp_path / "run", *flags, "--eval_benchmarks", json.dumps(benchmarks))[2:]]
    subprocess.run(command, check=True, env=example.environment, timeout=300, capture_output=True)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    evaluated = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4]
    assert (tmp_path / "run" / "checkpoint-4" / "pytorch_model_fsdp_0").is_dir()
    encoder = Encoder(CLIPModel.from_pretrained(tmp_path / "run"), load_processor(tmp_path / "run"), progress=False)
    assert encoder.model.logit_scale.shape == ()
    for name, options in benchmarks.items():
        result = build_benchmark(name, options=options)(encoder)
        for metric in main_metrics(result):
            expected = pytest.approx(result.metrics[metric], abs=1e-6)
            assert evaluated[-1][f"eval_{name}_{metric}"] == expected, metric
    assert "accuracy" in json.loads((tmp_path / "run" / "evaluation_after.json").read_text())["metrics"]


def test_a_mistake_in_two_processes_ends_the_command(example, tmp_path):
    launcher = [sys.executable, "-m", "hf_tripletclip.cli", "train"]
    command = [*launcher, *example.command(tmp_path / "run", "--num_processes", "2", "--scenes_nouns", "2")[2:]]
    finished = subprocess.run(command, env=example.environment, timeout=300, capture_output=True, text=True)
    assert finished.returncode == 1
    assert "error: `nouns` is 2" in finished.stderr
    assert finished.stderr.rstrip().endswith("of the processes, as told above")
