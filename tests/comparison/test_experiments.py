# SPDX-License-Identifier: Apache-2.0
"""The runs of experiments, and options that are refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from hf_tripletclip.comparison.experiments import CAPTION_ONLY, EXPERIMENTS, RECIPE, arms_at, find_experiment
from hf_tripletclip.comparison.main import main
from hf_tripletclip.comparison.photo_runs import BATCH, MAX_NEGATIVES
from hf_tripletclip.comparison.runs import flags_of
from hf_tripletclip.comparison.scales import PAPER_CONFIGS, mine_neighbours, paper_commands, scenes_flags, scenes_runs
from hf_tripletclip.data.scenes.start import start_folder
from hf_tripletclip.mining.neighbours import captions_digest, find_neighbours
from hf_tripletclip.objectives import available_objectives, get_objective
from hf_tripletclip.training.run_inputs import load_splits
from hf_tripletclip.training.script_arguments import parse_arguments
from hf_tripletclip.utils.cli_arguments import config_values

SCRIPT = Path("examples/pretrain.py")


def test_main_has_every_method_and_the_controls(tmp_path):
    runs = scenes_runs(EXPERIMENTS["main"], SCRIPT, tmp_path, seeds=[0, 1], max_steps=10)
    assert len({run.folder for run in runs}) == len(runs) == 2 * len(EXPERIMENTS["main"].arms)
    labels = [run.label for run in runs if run.seed == 0]
    assert {*available_objectives(), "clip, 2x steps", "clip, 2x batch"} == set(labels)
    assert [run.seed for run in runs] == [0] * len(labels) + [1] * len(labels)
    by_label = {run.label: flags_of(run.command) for run in runs}
    assert by_label["clip, 2x steps"]["max_steps"] == "20"
    assert by_label["clip, 2x batch"]["per_device_train_batch_size"] == "128"
    assert by_label["clip"]["max_steps"] == "10"
    for extra in (["--config", "a.yaml"], ["--config=a.yaml"]):
        run, *_ = scenes_runs(EXPERIMENTS["main"], SCRIPT, tmp_path, seeds=[0], max_steps=10, extra=extra)
        assert [word for word in run.command if "config" in word] == [word for word in extra if "config" in word]
    assert {flags["scenes_further_texts"] for flags in by_label.values()} == {"true"}


def test_all_runs_start_from_the_packages_model(tmp_path):
    runs = scenes_runs(EXPERIMENTS["locked"], SCRIPT, tmp_path, seeds=[3], max_steps=10)
    assert [run.label for run in runs] == [arm.label for arm in EXPERIMENTS["locked"].arms]
    for run in runs:
        model_args, _, _ = parse_arguments(list(run.command[2:]), "scenes")
        assert model_args.model_name_or_path == str(start_folder())
    assert flags_of(runs[1].command)["train_vision"] == "frozen"


def test_equal_training_is_one_run(tmp_path):
    runs = [
        run
        for experiment in EXPERIMENTS.values()
        if "scenes" in experiment.scales
        for run in scenes_runs(experiment, SCRIPT, tmp_path, seeds=[0], max_steps=10)
    ]
    alike: dict[str, set[Path]] = {}
    for run in runs:
        alike.setdefault(json.dumps(run.settings(), sort_keys=True), set()).add(run.folder)
    assert all(len(folders) == 1 for folders in alike.values())
    assert len({run.folder for run in runs}) == len(alike) < len(runs)
    by_label = {run.label: run.folder.name for run in runs}
    assert by_label["clip, both towers"] == "clip-seed-0"
    assert by_label["tripletclip, none faulty"] == "tripletclip-seed-0"


def test_given_flags_override_ours(tmp_path):
    assert scenes_flags([]) == {"eval_strategy": "no", "dataloader_num_workers": "0"}
    same = scenes_flags(["--eval_strategy", "no", "--dataloader-num-workers=0"])
    assert same == scenes_flags([])
    assert scenes_flags(["--eval_strategy=steps", "--adam_beta2", "0.9"])["eval_strategy"] == "steps"
    run, *_ = scenes_runs(
        EXPERIMENTS["main"], SCRIPT, tmp_path, seeds=[0], max_steps=10, extra=["--dataloader_num_workers", "2"]
    )
    _, _, args = parse_arguments(list(run.command[2:]), "scenes")
    assert (args.eval_strategy, args.dataloader_num_workers) == ("no", 2)


def test_filtered_rows_are_as_many_as_random_ones(tmp_path):
    runs = scenes_runs(EXPERIMENTS["filtered"], SCRIPT, tmp_path, seeds=[0], max_steps=10)
    data = {}
    for run in runs:
        _, data[run.label], _ = parse_arguments(list(run.command[2:]), "scenes")
    assert data["tripletclip, none faulty"].dataset_name_or_path == data["clip"].dataset_name_or_path == "scenes"
    faulty = [data[f"tripletclip, {what}"] for what in ("unfiltered", "filtered", "as few at random")]
    assert {one.dataset_name_or_path for one in faulty} == {str(tmp_path / "faulty")}
    assert [(one.filters, one.max_train_samples) for one in faulty] == [
        (None, None),
        ({"best": 10_000}, None),
        (None, 10_000),
    ]
    commands = [shlex.split(line) for line in paper_commands(EXPERIMENTS["filtered"], data="cc12m", seeds=[0])]
    found = {flags["output_dir"].split("/")[-1]: flags for flags in map(flags_of, commands)}
    assert list(found) == [
        "clip-seed-0",
        "tripletclip-unfiltered-seed-0",
        "tripletclip-filtered-seed-0",
        "tripletclip-as-few-at-random-seed-0",
    ]
    assert json.loads(found["tripletclip-filtered-seed-0"]["filters"]) == {"best": 1_400_000}
    assert found["tripletclip-as-few-at-random-seed-0"]["max_train_samples"] == "1400000"


@pytest.mark.parametrize("experiment", [name for name, one in EXPERIMENTS.items() if "scenes" in one.scales])
def test_every_run_has_flags_that_the_script_accepts(tmp_path, experiment):
    for run in scenes_runs(EXPERIMENTS[experiment], SCRIPT, tmp_path, seeds=[0], max_steps=10):
        model_args, data_args, args = parse_arguments(list(run.command[2:]), "scenes")
        assert data_args.dataset_name_or_path in ("scenes", str(tmp_path / "faulty"))
        get_objective(args.objective, **args.objective_arguments)
        assert args.seed == 0
        model_args.check()


def test_neighbours_are_mined_from_the_training_rows(tmp_path):
    sizes = ["--scenes_train_size", "30", "--scenes_validation_size", "3", "--scenes_test_size", "3"]
    runs = scenes_runs(EXPERIMENTS["main"], SCRIPT, tmp_path, seeds=[0], max_steps=10, only=["laclip_hn"], extra=sizes)
    clip, run = runs
    assert "neighbours" not in flags_of(clip.command)
    config = "scenes"
    mine_neighbours(run, config, progress=False)
    model_args, data_args, args = parse_arguments(list(run.command[2:]), config)
    rows = load_splits(data_args, model_args, ["image", "caption"])["train"]
    found = find_neighbours(args.neighbours, captions_digest(rows["caption"]), len(rows))
    assert args.batch_neighbours == 1
    assert len(found) == len(rows) == 30
    assert sum(len(found.of(row)) > 0 for row in range(30)) > 15
    mine_neighbours(run, config, progress=False)  # they are kept
    (other,) = scenes_runs(
        EXPERIMENTS["main"], SCRIPT, tmp_path, seeds=[0], max_steps=10, only=["laclip_hn"], extra=[*sizes[:1], "20"]
    )[1:]
    with pytest.raises(FileExistsError):
        mine_neighbours(other, config, progress=False)


def test_the_paper_commands_mine_before_training_on_neighbours():
    first, *others = (
        shlex.split(line)
        for line in paper_commands(EXPERIMENTS["main"], data="cc3m", seeds=[0, 1], only=["laclip_hn"])
    )
    assert first[:3] == ["tripletclip", "mine", "data/cc3m-triplets"]
    mined = flags_of(first)["output"]
    flags = {one["output_dir"].split("/")[-1]: one for one in map(flags_of, others)}
    assert [name for name, one in flags.items() if one.get("neighbours") == mined] == [
        "laclip_hn-seed-0",
        "laclip_hn-seed-1",
    ]
    assert "neighbours" not in flags["clip-seed-0"]
    other = paper_commands(
        EXPERIMENTS["main"],
        data="cc3m",
        seeds=[0],
        only=["laclip_hn"],
        extra=["--dataset_name_or_path", "data/mine"],
    )
    assert shlex.split(other[0])[:3] == ["tripletclip", "mine", "data/mine"]
    assert config_values([], PAPER_CONFIGS["cc3m"])["dataset_name_or_path"] == first[2]


def test_commands_repeat_the_paper():
    commands = [shlex.split(line) for line in paper_commands(EXPERIMENTS["controls"], data="cc12m", seeds=[0])]
    assert all(command[:3] == ["accelerate", "launch", "examples/pretrain.py"] for command in commands)
    assert all("cc12m_vit_b32" in command for command in commands)
    found = {flags["output_dir"].split("/")[-1]: flags for flags in map(flags_of, commands)}
    assert found["clip-2x-steps-seed-0"]["max_steps"] == "460000"
    assert found["clip-2x-batch-seed-0"]["per_device_train_batch_size"] == "2048"
    tuned = [flags_of(shlex.split(line)) for line in paper_commands(EXPERIMENTS["finetune"], data="cc3m", seeds=[0])]
    assert "model_name_or_path" not in tuned[0]
    assert {flags["model_name_or_path"] for flags in tuned[1:]} == {tuned[0]["output_dir"]}
    short = main(
        ["--scale", "paper", "--only", "clip, 2x steps", "--max_steps", "7", "--output_dir", "x", "--bf16"], SCRIPT
    )
    given = [flags_of(shlex.split(line)) for line in short.splitlines()]
    assert [(flags["output_dir"], flags["max_steps"]) for flags in given] == [
        ("x/clip-seed-0", "7"),
        ("x/clip-2x-steps-seed-0", "14"),
    ]
    assert all("bf16" in flags for flags in given)
    with pytest.raises(ValueError, match="`--data` is 'laion'; at the scale of the paper give cc3m or cc12m"):
        paper_commands(EXPERIMENTS["main"], data="laion", seeds=[0])


def test_photographs_have_captions_only():
    labels = {arm.label for arm in arms_at(EXPERIMENTS["main"], "photos")}
    assert "negclip" in labels
    assert labels.isdisjoint({"tripletclip", "clip_all", "conclip", "negclip_image", "cyclip_triplet"})
    assert set(CAPTION_ONLY) <= {*available_objectives()}
    assert {arm.label for arm in arms_at(EXPERIMENTS["main"], "scenes", ["negclip"])} == {"clip", "negclip"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "none"], "no experiment 'none'; there are main, .*modality"),
        (["--scale", "moon"], "no scale 'moon'; there are scenes, photos, paper"),
        (
            ["--experiment", "modality", "--scale", "photos"],
            "'modality' runs at scenes and paper, not at photos",
        ),
        (["--only", "clip", "nothing"], "main has no 'nothing' at scenes; it has 'clip', 'negclip'"),
        (["--baseline", "nothing"], "main has no 'nothing' at scenes; it has 'clip', "),
        (["--objective", "clip"], "--objective differs between runs"),
        (["--seed=3"], "--seed=3 differs between runs"),
        (["--seeds", "1", "1"], "names a seed twice"),
        (["--seeds", "0", "-1"], "`--seeds` has -1; give 0 or more"),
        (["--scale", "paper", "--model", "M"], "are for photographs: leave them out"),
        (["--jobs", "0"], "`--jobs` is 0; give at least 1"),
        (["--data", "DIR"], "are for photographs"),
        (["--experiment", "filtered", "--scenes_nouns", "8"], "ignore --scenes_nouns: leave it out"),
        (["--scale", "photos"], "Give the folder of photographs as `--data`"),
        (["--scale", "photos", "--data", "D", "--model", "M", "--adam_beta2", "1"], "take no further flags"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        main([*arguments, "--output_dir", str(tmp_path / "runs")], SCRIPT)


def test_finished_runs_make_tables_against_any_arm(tmp_path):
    runs = scenes_runs(EXPERIMENTS["cyclip"], SCRIPT, tmp_path, seeds=[0, 1], max_steps=150)
    for place, run in enumerate(runs):
        run.folder.mkdir()
        (run.folder / "metrics.json").write_text(json.dumps({"group_score": place / 10}))
    arguments = ["--output_dir", str(tmp_path), "--seeds", "0", "1", "--disable_tqdm"]
    assert "| method minus clip |" in main(["--experiment", "cyclip", *arguments], SCRIPT)
    text = main(["--experiment", "cyclip", "--baseline", "cyclip", "--only", "cyclip_triplet", *arguments], SCRIPT)
    assert "| method minus cyclip |" in text
    assert "| cyclip_triplet | +0.200 " in text
    assert "| tripletclip |" not in text
    assert (tmp_path / "cyclip" / "comparison.md").read_text() == text
    same = ["--eval_strategy", "no", "--dataloader_num_workers=0", "--max_steps", "150"]
    assert main(["--experiment", "cyclip", *arguments, *same], SCRIPT)
    with pytest.raises(ValueError, match="holds runs with other settings"):
        main(["--experiment", "cyclip", *arguments, "--eval_strategy", "steps"], SCRIPT)


def test_find_experiment_knows_its_scales():
    for name, experiment in EXPERIMENTS.items():
        for scale in experiment.scales:
            assert find_experiment(name, scale) is experiment
            assert experiment.baseline in {arm.label for arm in arms_at(experiment, scale)}


def test_the_configuration_of_the_recipe_equals_the_compared_one():
    model_args, _, args = parse_arguments(["--model", "M", "--data", "D"], "finetune_captions")
    assert args.objective == RECIPE["objective"]
    assert args.objective_arguments == RECIPE["objective_kwargs"]
    assert args.learning_rate == RECIPE["learning_rate"]
    assert (args.max_negatives, args.max_positives) == (MAX_NEGATIVES, RECIPE["max_positives"])
    assert (args.per_device_train_batch_size, args.max_steps) == (BATCH // 2, 300)
    assert model_args.train_vision == "frozen"
