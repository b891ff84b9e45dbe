# SPDX-License-Identifier: Apache-2.0
"""Benchmarks as the trainer's evaluation."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import EarlyStoppingCallback

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel, TripletCLIPTrainer, TripletCLIPTrainingArguments
from hf_tripletclip.data import build_processor
from hf_tripletclip.evaluation import SugarCrepe
from tests.tiny import tiny_config

COLOURS = ("red", "green", "blue", "white", "black")
KINDS = ("replace_obj", "swap_att")


def pair(index: int) -> tuple[str, str]:
    return f"a {COLOURS[index % 5]} cat", f"a {COLOURS[(index + 2) % 5]} cat"


@pytest.fixture(scope="module")
def processor():
    return build_processor([f"a {colour} cat" for colour in COLOURS], image_size=16)


@pytest.fixture(scope="module")
def sugarcrepe(tmp_path_factory) -> str:
    """Two categories in the layout of the official files, ids with holes, their images beside them."""
    folder = tmp_path_factory.mktemp("sugarcrepe")
    for place, kind in enumerate(KINDS):
        rows = {}
        for index in range(4):
            caption, negative = pair(index + place)
            rows[str(3 * index)] = {"filename": f"{index}.png", "caption": caption, "negative_caption": negative}
        (folder / f"{kind}.json").write_text(json.dumps(rows))
    for index in range(4):
        Image.new("RGB", (20, 20), COLOURS[index]).save(folder / f"{index}.png")
    return str(folder)


def dataset(rows: int) -> Dataset:
    table = []
    for index in range(rows):
        caption, negative = pair(index)
        images = {"image": COLOURS[index % 5], "neg_image": COLOURS[(index + 2) % 5]}
        table.append(
            {name: Image.new("RGB", (20, 20), colour) for name, colour in images.items()}
            | {"caption": caption, "neg_caption": negative}
        )
    return Dataset.from_list(table)


def make_trainer(
    tmp_path, processor, *, callbacks=None, evaluated=None, model=None, **arguments
) -> TripletCLIPTrainer:
    torch.manual_seed(0)
    settings = tiny_config().to_dict()
    settings["text_config"] |= {
        "vocab_size": len(processor.tokenizer),
        "max_position_embeddings": 20,
        "eos_token_id": processor.tokenizer.eos_token_id,
    }
    return TripletCLIPTrainer(
        model=model or TripletCLIPModel(TripletCLIPConfig(**settings)),
        args=TripletCLIPTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            learning_rate=1e-2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=dataset(8),
        eval_dataset=dataset(6) if evaluated is None else evaluated,
        processing_class=processor,
        callbacks=callbacks,
    )


def test_an_evaluation_has_the_benchmark_s_main_metrics(tmp_path, processor, sugarcrepe):
    trainer = make_trainer(tmp_path, processor, eval_benchmarks={"sugarcrepe": {"annotations": sugarcrepe}})
    predicted = trainer.predict(dataset(4)).metrics
    metrics = trainer.evaluate()
    expected = SugarCrepe(annotations=sugarcrepe)(trainer.model, processor, progress=False).metrics
    found = {
        name.removeprefix("eval_sugarcrepe_"): value
        for name, value in metrics.items()
        if name.startswith("eval_sugarcrepe_")
    }
    assert found == {name: expected[name] for name in (*KINDS, "macro", "micro")}
    assert "eval_accuracy" in metrics  # those of the dataset are there too
    assert trainer.state.log_history[-1]["eval_sugarcrepe_macro"] == expected["macro"]
    assert not any("sugarcrepe" in name for name in (*predicted, *trainer.predict(dataset(4)).metrics))
    trainer.evaluation_loop = None  # an evaluation that fails before its end
    with pytest.raises(TypeError):
        trainer.evaluate()
    del trainer.evaluation_loop
    assert not any("sugarcrepe" in name for name in trainer.predict(dataset(4)).metrics)


def test_the_best_model_and_early_stopping_follow_a_benchmark(tmp_path, processor, sugarcrepe):
    trainer = make_trainer(
        tmp_path,
        processor,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
        eval_benchmarks=json.dumps({"sugarcrepe": sugarcrepe}),  # a string alone is the place of the data
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        save_total_limit=1,
        max_steps=12,
        load_best_model_at_end=True,
        metric_for_best_model="sugarcrepe_macro",
        greater_is_better=True,
    )
    trainer.train()
    curve = [entry["eval_sugarcrepe_macro"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.state.best_metric == max(curve)
    assert len(curve) < 12  # it stopped early, which needs the metric in the callback
    best = SugarCrepe(annotations=sugarcrepe)(trainer.model, processor, progress=False)
    assert best.metrics["macro"] == max(curve)  # the model in memory is the best one


def test_several_datasets_run_the_benchmarks_once(tmp_path, processor, sugarcrepe):
    evaluated = {"one": dataset(4), "two": dataset(5)}
    trainer = make_trainer(
        tmp_path, processor, evaluated=evaluated, eval_benchmarks={"sugarcrepe": sugarcrepe, "triplets": None}
    )
    runs: list[str] = []
    for benchmark in trainer.benchmarks:
        run = type(benchmark).run

        def counted(encoder, benchmark=benchmark, run=run):
            runs.append(benchmark.name)
            return run(benchmark, encoder)

        benchmark.run = counted
        benchmark.max_rows = 8
    metrics = trainer.evaluate()
    assert runs == ["sugarcrepe", "triplets"]
    assert {"eval_one_loss", "eval_two_loss", "eval_sugarcrepe_micro", "eval_triplets_group_score"} <= metrics.keys()
    assert not any("text_score_" in name for name in metrics)  # main metrics only


def test_benchmarks_evaluate_the_adapter_in_training(tmp_path, processor, sugarcrepe):
    from peft import LoraConfig, get_peft_model

    plain = make_trainer(tmp_path / "plain", processor, eval_benchmarks={"sugarcrepe": sugarcrepe})
    adapted = get_peft_model(
        plain.model, LoraConfig(target_modules=["q_proj", "v_proj"], r=8, init_lora_weights=False)
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.mul_(30)
    trainer = make_trainer(tmp_path, processor, model=adapted, eval_benchmarks={"sugarcrepe": sugarcrepe})
    with_adapter = SugarCrepe(annotations=sugarcrepe)(adapted, processor, progress=False)
    with adapted.disable_adapter():
        without = SugarCrepe(annotations=sugarcrepe)(adapted, processor, progress=False)
    assert with_adapter.predictions["score_i0c0"] != without.predictions["score_i0c0"]
    assert trainer.evaluate()["eval_sugarcrepe_macro"] == with_adapter.metrics["macro"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sugarcrape": {}}, ValueError, "unknown benchmark 'sugarcrape'; there are sugarcrepe, "),
        ({"sugarcrepe": {}}, ValueError, "say where the data of sugarcrepe is"),
        ({"sugarcrepe": {"annotations": "tests"}}, FileNotFoundError, "tests has none of"),
        ({"triplets": {"rows": 3}}, ValueError, "takes no rows"),
        ({"sugarcrepe": 3}, ValueError, "`eval_benchmarks` has 3 for sugarcrepe"),
        ("sugarcrepe", ValueError, "give a JSON object"),
    ],
)
def test_mistakes_are_found_before_training(tmp_path, processor, settings, error, message):
    with pytest.raises(error, match=message):
        make_trainer(tmp_path, processor, eval_benchmarks=settings)


def test_missing_images_are_found_before_training(tmp_path, processor, sugarcrepe):
    (tmp_path / "none").mkdir()
    options = {"annotations": sugarcrepe, "images": str(tmp_path / "none")}
    with pytest.raises(FileNotFoundError, match=r"4 images are missing, such as 0\.png"):
        make_trainer(tmp_path, processor, eval_benchmarks={"sugarcrepe": options})


def test_benchmarks_need_a_processor(tmp_path, processor, sugarcrepe):
    trainer = make_trainer(tmp_path, processor)
    trainer.args.eval_benchmarks = {"sugarcrepe": sugarcrepe}
    with pytest.raises(ValueError, match="`processing_class`"):
        TripletCLIPTrainer(
            model=trainer.model, args=trainer.args, data_collator=trainer.data_collator, eval_dataset=dataset(4)
        )
