# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning refuses, before anything is trained."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertModel, SiglipConfig, SiglipModel

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.data import build_processor, load_scenes
from hf_tripletclip.data.scenes.start import start_folder
from hf_tripletclip.evaluation import Encoder
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training import run as pretraining
from hf_tripletclip.training.evaluation import blank_result, make_benchmarks
from hf_tripletclip.training.finetuning import FinetuningArguments, _name_repositories, main
from hf_tripletclip.training.script_arguments import parse_arguments
from hf_tripletclip.training.towers import TowerArguments, check_fits
from hf_tripletclip.training.variants import make_runs
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    processor = build_processor(["a red cat", "a blue dog"], image_size=16, model_max_length=16)
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    TripletCLIPModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


BENCHMARKS = {"triplets": {"data": "scenes", "max_rows": 40}, "zeroshot": {"data": "scenes", "max_rows": 22}}
SIZES = ("--scenes_train_size", "60", "--scenes_validation_size", "20", "--scenes_test_size", "40")
SMALL = [
    *SIZES,
    *("--benchmarks", json.dumps(BENCHMARKS)),
    *("--use_cpu", "true", "--report_to", "none", "--train_text", "lora"),
]


EVALUATED = ("--eval_strategy", "steps", "--eval_steps", "1")
PROBE = ("--eval_benchmarks", json.dumps({"zeroshot": BENCHMARKS["zeroshot"]}))


@pytest.fixture
def no_work(monkeypatch):
    """Nothing is encoded: what is refused here is refused before minutes of evaluation."""

    def refuse(*args):
        raise AssertionError("a model was evaluated")

    monkeypatch.setattr(Encoder, "_features", refuse)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_target_modules", "query"], "matches no linear layer of text_model; there are k_proj"),
        (["--train_text", "frozen", "--train_vision", "frozen"], "Nothing is left to train"),
        (
            ["--variants", '{"a": {"lora_target_module": 3}}'],
            r"sets `lora_target_module`, which is no flag \(did you mean lora_target_modules\?\)",
        ),
        (["--variants", '{"a": 3}'], "`variants` has 3 for a: give the flags that differ"),
        (["--composition", "sugar"], "unknown benchmark 'sugar'"),
        (["--composition", "sugarcrepe"], r"where the data of sugarcrepe is.* --benchmarks '\{\"sugarcrepe\": \"PATH"),
        (["--bf16", "true", "--use_cpu", "false"], r"`bf16` is set, and there is no GPU that has it"),
        (
            ["--composition", "triplets.grup_score"],
            "triplets has no metric 'grup_score'; it has accuracy, .*, group_score",
        ),
        (["--retention", "zeroshot.top9"], "zeroshot has no metric 'top9'; it has top1, top5"),
        (
            ["--benchmarks", '{"triplets": "scenes", "zeroshot": "scenes", "cola": "x"}'],
            "settings of cola, which nothing",
        ),
        (["--alpha", "1:0"], "`alpha` is '1:0'"),
        (["--max_loss=-0.01"], "`max_loss` is -0.01: give 0 or more"),
        (
            ["--cache_locked_towers", "cache", "--variants", '{"a": {"train_text": "frozen"}, "b": {}}'],
            r"but both towers train: lock one .*of one of several `variants` by .*null`",
        ),
        (["--hub_base_model", "./clip"], r"`hub_base_model` is '\./clip', which is no id of the Hub"),
        (["--resume_from_checkpoint", "no/checkpoint"], "names 'no/checkpoint', which is no folder"),
        (["--eval_strategy", "no", "--retention_metric", "zeroshot_top1", *PROBE], "give `eval_strategy`"),
        (
            [*EVALUATED, *PROBE, "--retention_metric", "zeroshot_top9"],
            "which zeroshot does not give; there are zeroshot_top1, zeroshot_top5",
        ),
        ([*EVALUATED, "--retention_metric", "eval_zeroshot_top1"], "but `eval_benchmarks` has no zeroshot"),
        (
            [*EVALUATED, *PROBE, "--retention_metric", "acuracy"],
            r"which no evaluation gives; there are accuracy, .*group_score, .* zeroshot_\.\.\.",
        ),
        (
            [*EVALUATED, "--variants", '{"a": {}, "b": {"retention_metric": "zeroshot_top1"}}'],  # not after `a`
            "but `eval_benchmarks` has no zeroshot",
        ),
    ],
)
def test_mistakes_are_named(base, tmp_path, flags, message, no_work):
    arguments = ["--model_name_or_path", str(base), "--output_dir", str(tmp_path / "out"), *SMALL, *flags]
    with pytest.raises(ValueError if "no/checkpoint" not in message else FileNotFoundError, match=message):
        main(arguments)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_data_that_does_not_fit_is_refused_before_the_base_is_measured(base, tmp_path, no_work):
    flags = ["--model_name_or_path", str(base), "--output_dir", str(tmp_path / "out"), *SMALL]
    with pytest.raises(ValueError, match=r"`scenes_train_size` is for `scenes`, but the data is '\./nowhere'"):
        main([*flags, "--dataset_name_or_path", "./nowhere"])
    others = [*flags[:4], *SMALL[len(SIZES) :], "--dataset_name_or_path", "./nowhere"]
    with pytest.raises(FileNotFoundError, match=r"The dataset path \./nowhere does not exist"):
        main(others)
    with pytest.raises(ValueError, match="60 rows, fewer than one batch of 64"):
        main([*flags, "--per_device_train_batch_size", "64"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_base_that_cannot_be_trained(base, tmp_path, no_work):
    flags = ["--output_dir", str(tmp_path / "out"), *SMALL, "--model_name_or_path"]
    get_peft_model(TripletCLIPModel.from_pretrained(base), LoraConfig(target_modules=["q_proj"], r=2)).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(ValueError, match=r"is a PEFT adapter, .*: tripletclip convert .*adapter TARGET"):
        main([*flags, str(tmp_path / "adapter")])
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **size)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert is of a model of the type 'bert', which cannot be trained here"):
        main([*flags, str(tmp_path / "bert")])
    siglip = SiglipModel(SiglipConfig(text_config={**size, "vocab_size": 9}, vision_config={**size, "image_size": 32}))
    with pytest.raises(ValueError, match="The model is a SiglipModel, which cannot be trained here"):
        check_fits(siglip, TowerArguments())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out" / "tuned").iterdir())


def test_metric_names_of_random_embeddings_are_those_of_the_model(base):
    model, processor = load_clip_like(base)
    for benchmark in make_benchmarks(BENCHMARKS):
        assert list(blank_result(benchmark, model, processor).metrics) == list(benchmark(model, processor).metrics)


def test_a_base_that_is_missing_or_not_named(tmp_path):
    with pytest.raises(ValueError, match="Fine-tuning starts from a model"):
        main(["--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="Nothing says what user/clip is trained on"):
        main(["--model_name_or_path", "user/clip", "--output_dir", str(tmp_path)])
    for name in ("outputs/none", "./none", "/none", "a/b/c"):
        with pytest.raises(FileNotFoundError, match=rf"scenes_scratch --objective clip --output {name}"):
            main(["--model_name_or_path", name, "--output_dir", str(tmp_path), *SMALL])


@pytest.mark.parametrize(
    ("names", "named", "expected"),
    [
        (["tuned"], None, ["out"]),
        (["My LoRA (r = 4)!", "b"], None, ["out-my-lora-r-4", "out-b"]),
        (["tuned"], "user/clip", ["user/clip"]),
        (["a", "b"], "user/clip", ["user/clip-a", "user/clip-b"]),
    ],
)
def test_each_run_has_a_repository_of_its_own(tmp_path, names, named, expected):
    given = SimpleNamespace(hub_model_id=named, output_dir=str(tmp_path / "out"))
    runs = {name: (None, None, SimpleNamespace()) for name in names}
    _name_repositories(runs, given)
    assert [args.hub_model_id for _, _, args in runs.values()] == expected


def test_a_comparison_from_its_start_to_its_table(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretraining, "push_run", lambda run: pytest.fail("its card does not tell of retention yet"))
    variants = {"a": {}, "b": {"train_text": "full", "learning_rate": 0.3}}
    flags = ["--max_steps", "1", "--per_device_train_batch_size", "8", "--save_strategy", "no", "--alpha", "0.5"]
    flags += ["--variants", json.dumps(variants), "--max_loss", "0", "--disable_tqdm", "true"]
    few = {name: {**settings, "max_rows": 6} for name, settings in BENCHMARKS.items()}
    flags += ["--scenes_train_size", "8", "--scenes_test_size", "3", "--benchmarks", json.dumps(few)]
    out = tmp_path / "out"
    rows = main(["--model_name_or_path", str(base), "--output_dir", str(out), *SMALL, *flags])
    choices = [name.partition(" = ")[2] for name, _ in rows]
    assert [name.partition(" = ")[0] for name, _ in rows] == ["base", "a", "a, WiSE-FT α", "b", "b, WiSE-FT α"]
    assert [point.alpha for _, point in rows] == [0, 1, float(choices[2]), 1, float(choices[4])]
    table = (out / "finetuning.md").read_text()
    assert capsys.readouterr().out.endswith(table)
    content = json.loads((out / "finetuning.json").read_text())
    assert list(content) == [name for name, _ in rows]
    assert content["base"]["zeroshot"]["metrics"] == rows[0][1].results["zeroshot"].metrics
    for name in variants:
        curve = json.loads((out / name / "interpolation.json").read_text())
        assert [point["alpha"] for point in curve["points"]] == [0.0, 0.5, 1.0]
        assert (out / name / "interpolation.png").is_file()
        card = (out / name / "README.md").read_text()
        assert "## Retention" in card
        assert "![Composition and retention between base and tuned model](interpolation.png)" in card


def test_the_default_starts_from_the_package_and_has_variants_that_can_train(pytestconfig, tmp_path):
    config = "finetune_lora_scenes"
    parse = functools.partial(parse_arguments, default_config=config, further=(FinetuningArguments,))
    given = ["--output_dir", str(tmp_path)]
    *common, tuning = parse(given)
    runs = make_runs(tuning.variants, tuple(common), lambda flags: parse([*given, *flags])[:3])
    assert list(runs) == ["lora", "lora distilled"]
    columns = set(load_scenes("test", train_size=4, validation_size=4, test_size=4).column_names)
    for model_args, _, args in runs.values():
        assert model_args.model_name_or_path == str(start_folder())
        assert model_args.modes == {"text": "lora", "vision": "lora"}
        assert set(get_objective(args.objective, **args.objective_arguments).columns) <= columns
