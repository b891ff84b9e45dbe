# SPDX-License-Identifier: Apache-2.0
"""The runs that fine-tuning compares."""

from __future__ import annotations

import pytest

from hf_tripletclip.training.script_arguments import parse_arguments
from hf_tripletclip.training.variants import check_outputs, make_runs


def runs(variants, *flags):
    def parse(more):
        return parse_arguments(["--output_dir", "out", "--use_cpu", "--report_to", "none", *flags, *more])

    return make_runs(variants, parse([]), parse)


def test_each_has_its_flags_and_its_folder():
    made = runs(
        {
            "a": {},
            "b c": {
                "lora_target_modules": ["q_proj", "v_proj"],
                "objective_kwargs": {"chunk_size": 2},
                "use_cpu": True,
            },
            "3": {"mini_batch_size": None, "seed": 7},
        },
        *("--mini_batch_size", "2"),
    )
    assert {name: args.output_dir for name, (_, _, args) in made.items()} == {
        "a": "out/a",
        "b c": "out/b c",
        "3": "out/3",
    }
    assert made["b c"][0].lora_target_modules == ["q_proj", "v_proj"]
    assert made["b c"][2].objective_kwargs == {"chunk_size": 2}
    assert [args.mini_batch_size for _, _, args in made.values()] == [2, 2, None]
    assert made["3"][2].seed == 7


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"seed": None}}, "a leaves `seed` empty"),
        ({"a": {"output_dir": "x"}}, "a sets `output_dir`, which is one for all"),
        ({"a": {"model_name_or_path": "x"}}, "`model_name_or_path`, which is one for all"),
        ({"a": {"seed": "x"}}, "`variants`: a: .*seed"),
        ({"Base": {}}, "'Base', which is that of the model"),
        ({"a": {}, "A": {}}, "'a' and 'A', which on some disks are one folder"),
        *(({name: {}}, "each names a folder") for name in ("", ".", "..", " a", "a/b", "a\\b", "a\0")),
    ],
    ids=str,
)
def test_names_and_flags_that_cannot_be(variants, message):
    with pytest.raises(ValueError, match=message):
        runs(variants)


def test_what_training_starts_from_is_not_written_over(tmp_path):
    made = runs({"a": {}})
    made["a"][2].output_dir = str(tmp_path / "out" / "a")
    out = str(tmp_path / "out")
    for base, refused in (
        (tmp_path / "out", True),
        (tmp_path / "out" / "a", True),
        (tmp_path / "out" / "a" / "checkpoint-2", True),
        (tmp_path / "out" / "b", False),  # another run's folder
        (tmp_path / "other", False),
    ):
        base.mkdir(parents=True, exist_ok=True)
        if refused:
            with pytest.raises(ValueError, match="is what fine-tuning starts from"):
                check_outputs(str(base), out, made)
        else:
            check_outputs(str(base), out, made)
    check_outputs("out", str(tmp_path / "nowhere"), made)  # an id of the Hub
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        made["a"][2].output_dir = "hub/a"
        check_outputs("hub", "hub", made)
