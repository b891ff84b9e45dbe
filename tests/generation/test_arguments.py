# SPDX-License-Identifier: Apache-2.0
"""Flags and YAML files of `tripletclip generate`."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from hf_tripletclip.generation.arguments import main, parse_generation_arguments
from hf_tripletclip.generation.captions.rules import RuleCaptions
from hf_tripletclip.generation.captions.scenes import ScenesCaptions
from hf_tripletclip.generation.images.scenes import ScenesImages
from hf_tripletclip.generation.source import Source

SMALL = '{"train_size": 6, "validation_size": 2, "test_size": 2, "image_size": 32, "nouns": 12, "seed": 5}'


def parse(*argv, config=None):
    return parse_generation_arguments(["--output", "out", *argv], config)


def test_the_default_is_the_embedded_data():
    arguments, settings = parse()
    assert arguments.num_workers == 1
    assert settings.source == Source("scenes")
    assert settings.captions == ScenesCaptions()
    assert settings.images == ScenesImages()
    assert settings.checks == []


def test_the_settings_of_scenes_are_given_once():
    _, settings = parse("--scenes_options", SMALL)
    assert settings.captions == ScenesCaptions(nouns=12, scenes_seed=5)
    assert settings.images == ScenesImages(nouns=12, scenes_seed=5, image_size=32)
    _, settings = parse("--scenes_options", SMALL, "--neg_images_options", '{"image_size": 48}')
    assert settings.images == ScenesImages(nouns=12, scenes_seed=5, image_size=48)


def test_everything_reaches_the_settings():
    _, settings = parse(
        *("--data", "user/pairs", "--revision", "v1", "--splits", "train", "test", "--max_rows", "9"),
        *("--columns", '{"caption": "text"}'),
        *("--neg_captions", "rules", "--neg_captions_options", '{"seed": 3, "num_negatives": 2}'),
        *("--neg_images", "none", "--checks", "clip", "--checks_options", '{"clip": {"model": "some/clip"}}'),
        *("--filters", '{"min_clip_score": 0.2, "best": 5}'),
        *("--unit_rows", "7", "--rows_per_file", "70", "--license", "mit"),
    )
    assert settings.source == Source("user/pairs", ("train", "test"), {"caption": "text"}, "v1", 9)
    assert settings.captions == RuleCaptions(seed=3, num_negatives=2)
    assert settings.images is None
    assert [check.label for check in settings.checks] == ["clip:some/clip"]
    assert (settings.filters.min_clip_score, settings.filters.best) == (0.2, 5)
    assert (settings.unit_rows, settings.rows_per_file, settings.license) == (7, 70, "mit")
    assert (
        parse("--data", "x", "--columns", "bivlc", "--neg_captions", "none", "--neg_images", "none")[1].source.columns
        == "bivlc"
    )


def test_a_yaml_file_says_the_same_and_flags_win(tmp_path):
    config = {
        "output": "elsewhere",
        "data": "user/pairs",
        "splits": ["train"],
        "columns": {"caption": "text"},
        "neg_captions": "rules",
        "neg_captions_options": {"seed": 3, "kinds": ["swap_obj"]},
        "neg_images": "none",
        "checks": ["clip"],
        "checks_options": {"clip": {"model": "some/clip"}},
        "filters": {"best": 5},
        "unit_rows": 7,
        "num_workers": 3,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments, settings = parse_generation_arguments(["--config", str(path), "--unit_rows", "9"])
    assert (arguments.output, arguments.num_workers, settings.unit_rows) == ("elsewhere", 3, 9)
    assert settings.source == Source("user/pairs", ("train",), {"caption": "text"})
    assert settings.captions == RuleCaptions(seed=3, kinds=["swap_obj"])
    assert settings.filters.best == 5
    assert [check.label for check in settings.checks] == ["clip:some/clip"]
    assert parse("--max_rows", "2", config=path)[1].source.max_rows == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--data", "user/pairs"),
            "name a source of negative captions: --neg_captions llm, .*, scenes; or none",
        ),
        (
            ("--data", "user/pairs", "--neg_captions", "rules"),
            "of negative images: --neg_images diffusers",
        ),
        (("--neg_captions", "gpt"), "unknown source of negative captions 'gpt'; there are llm, inference, "),
        (("--neg_images", "dalle"), "unknown source of negative images 'dalle'"),
        (("--checks", "fid"), "unknown check 'fid'"),
        (("--neg_captions_options", '{"sed": 1}'), "captions 'scenes' takes no sed; it takes .*scenes_seed"),
        (("--neg_captions", "none", "--neg_captions_options", '{"seed": 1}'), "`neg_captions_options` are given"),
        (("--neg_captions_options", "{"), "`neg_captions_options` is not valid JSON"),
        (("--neg_captions_options", "7"), "`neg_captions_options` must be a mapping"),
        (("--checks_options", '{"clip": {}}'), "settings of clip, which `checks` does not name"),
        (("--filters", '{"min_clip": 1}'), "`filters` takes no min_clip; it takes min_clip_score_mean"),
        (("--filters", '{"best": 0}'), "`best` is 0"),
        (("--executor", "kubernetes"), "unknown executor 'kubernetes'; there are local, slurm, ray"),
        (("--worker", "2"), r"unknown flag: --worker \(did you mean --num_workers\?\)"),
        (("--num_workers", "two"), "--num_workers"),
    ],
)
def test_what_is_wrong_is_named(argv, message):
    with pytest.raises(ValueError, match=message):
        parse(*argv)


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    main(["--output", str(tmp_path / "out"), "--scenes_options", SMALL, "--dry_run", "--price_per_hour", "2"])
    shown = capsys.readouterr().out
    assert "10 rows in 3 units of 256" in shown
    assert "at 2 an hour and worker" in shown
    assert not (tmp_path / "out").exists()


def test_a_run_says_what_it_has_made(tmp_path, capsys):
    argv = ["--output", str(tmp_path / "out"), "--scenes_options", SMALL, "--disable_tqdm"]
    main(argv)
    shown = capsys.readouterr()
    assert "10 of 10 rows: 6 train, 2 validation, 2 test; " in shown.out
    assert f"load_dataset('{tmp_path / 'out'}')" in shown.out
    assert "rows/s]" not in shown.err
    main(argv)
    assert "10 of 10 rows: 6 train, 2 validation, 2 test\n" in capsys.readouterr().out


def test_workers_that_import_the_script_import_little():
    """Each worker imports the script that it was started from, and with it this module."""
    code = (
        "import sys, hf_tripletclip.generation.arguments, hf_tripletclip.generation.engine\n"
        "import hf_tripletclip.generation.captions.scenes, hf_tripletclip.generation.images.scenes\n"
        "import hf_tripletclip.generation.captions.rules, hf_tripletclip.data.decoding\n"
        "print([name for name in ('torch', 'transformers', 'diffusers', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_needs_no_optional_library():
    code = """
import sys
from hf_tripletclip.cli import main
sys.modules.update(dict.fromkeys(["datatrove", "diffusers", "nltk"]))  # importing them fails
print(main(["generate", "--sorce", "x"]), main(["generate"]), flush=True)
main(["generate", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unknown, missing = done.stderr.strip().splitlines()
    assert unknown.startswith("error: unknown flag: --sorce")
    assert missing.startswith("error: datatrove is not installed, which is needed for making datasets: pip install ")
    assert done.stdout.startswith("1 1\nusage: tripletclip generate ")
    assert 'pip install "hf_tripletclip[generation]"' in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--neg_captions", "rules", "--neg_captions_options", '{"num_negatives": "4"}'],
            "`num_negatives` is '4', which is no int",
        ),
        (["--neg_captions_options", '{"batch_size": null}'], "`batch_size` is None, which is no int"),
        (["--neg_captions", "rules", "--neg_captions_options", '{"seed": "a"}'], "`seed` is 'a', which is no int"),
        (["--scenes_options", '{"train_size": "100"}'], "`train_size` is '100': give a whole number"),
        (["--executor_options", '{"tasks": 64}'], "`executor_options` are for a cluster"),
        (["--price_per_hour", "2"], "add `--dry_run`"),
        (["--revision", "v9"], "`scenes` has no revisions"),
        (["--columns", "bivlc"], "no other column names"),
    ],
)
def test_what_is_of_the_wrong_type_or_without_effect_is_refused(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_generation_arguments(["--output", "out", *flags])
