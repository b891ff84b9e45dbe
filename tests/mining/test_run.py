# SPDX-License-Identifier: Apache-2.0
"""Whole runs: the dataset that others open, its neighbours and page, and runs that are repeated or refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

import hf_tripletclip
from hf_tripletclip.cli import main
from hf_tripletclip.data.validate import validate
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.generation.plan import Plan
from hf_tripletclip.mining import MiningSettings, Neighbours, mine
from hf_tripletclip.mining.neighbours import captions_digest
from tests.loopback_hub import run_python
from tests.mining import caption_of, write_photographs

QUIET = {"progress": False, "relative_margin": None}


def test_pairs_open_without_this_package_and_have_their_sources(photographs, model_folder, tmp_path):
    report = hf_tripletclip.mine(photographs, model_folder, tmp_path / "mined", **QUIET)
    assert report.kept == {"train": 40}
    rows = load_dataset(str(tmp_path / "mined"), split="train", cache_dir=str(tmp_path / "hub"))
    assert rows.column_names[:5] == ["id", "image", "caption", "neg_image", "neg_caption"]
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        other = by_id[row["neg_id"]]
        assert row["neg_caption"] == other["caption"]
        assert np.array_equal(np.asarray(row["neg_image"]), np.asarray(other["image"]))
        assert not np.array_equal(np.asarray(row["image"]), np.asarray(row["neg_image"]))
        assert row["generator"].startswith("mine:")
        assert row["source"] == "photographs"
        assert row["licence"] == f"licence {int(row['id'].split('-')[1])}"
    assert validate(str(tmp_path / "mined"), num_workers=1).exit_status() == 0
    card = (tmp_path / "mined/README.md").read_text()
    assert "tripletclip mine" in card
    assert str(tmp_path) not in card
    assert "synthetic" not in card


def test_scores_are_those_of_the_model(photographs, model_folder, tmp_path):
    mine(photographs, model_folder, tmp_path / "mined", **QUIET)
    rows = load_dataset(str(tmp_path / "mined"), split="train", cache_dir=str(tmp_path / "hub"))
    encoder = Encoder.from_pretrained(model_folder, progress=False)
    texts = encoder.texts([rows[0]["caption"], rows[0]["neg_caption"]])
    assert rows[0]["caption_similarity"] == pytest.approx(float(texts[0] @ texts[1]), abs=1e-6)
    similarities = {}
    from hf_tripletclip.mining.pairs import read_pairs

    (pairs,) = read_pairs(str(photographs))
    images, _ = encoder.images(pairs.images)
    for row, image in zip(rows, pairs.image_of, strict=True):
        similarities.setdefault(image, row["image_similarity"])
        others = [float(images[image] @ images[other]) for other in range(20) if other != image]
        assert row["image_similarity"] == pytest.approx(max(others), abs=1e-5)  # exactly the nearest


def test_several_captions_are_lists_and_several_pairs_are_rows(photographs, model_folder, tmp_path):
    mine(
        photographs,
        model_folder,
        tmp_path / "captions",
        negatives="captions",
        similarity="text",
        num_negatives=3,
        **QUIET,
    )
    rows = load_dataset(str(tmp_path / "captions"), split="train", cache_dir=str(tmp_path / "hub"))
    assert "neg_image" not in rows.column_names
    assert {len(few) for few in rows["neg_caption"]} == {3}
    mine(photographs, model_folder, tmp_path / "pairs", num_negatives=3, **QUIET)
    rows = load_dataset(str(tmp_path / "pairs"), split="train", cache_dir=str(tmp_path / "hub"))
    assert len(rows) == 120
    assert len(set(rows["id"])) == 120
    assert [len(set(rows["neg_id"][at : at + 3])) for at in range(0, 120, 3)] == [3] * 40


def test_neighbours_are_of_the_written_rows(photographs, model_folder, tmp_path):
    mine(photographs, model_folder, tmp_path / "mined", num_negatives=2, num_neighbours=5, **QUIET)
    rows = load_dataset(str(tmp_path / "mined"), split="train", cache_dir=str(tmp_path / "hub"))
    near = Neighbours.load(tmp_path / "mined/neighbours/train.parquet")
    assert len(near) == len(rows) == 80
    assert near.captions == captions_digest(rows["caption"])
    for row in (0, 1, 41, 79):
        few = near.of(row)
        assert len(few) == 5
        assert rows[int(few[0])]["caption"] == rows[row - row % 2]["neg_caption"]
        assert near.groups[row] not in near.groups[few]
    assert near.of(0).tolist() == near.of(1).tolist()  # two rows of one pair
    with pytest.raises(FileNotFoundError, match="There is no file"):
        Neighbours.load(tmp_path / "mined/neighbours/test.parquet")
    (tmp_path / "mined/neighbours/train.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="is damaged"):
        Neighbours.load(tmp_path / "mined/neighbours/train.parquet")


def test_neighbours_alone_keep_all_rows(photographs, model_folder, tmp_path):
    report = mine(photographs, model_folder, tmp_path / "mined", num_negatives=0, max_score=-2.0, progress=False)
    assert report.kept == {"train": 40}
    rows = load_dataset(str(tmp_path / "mined"), split="train", cache_dir=str(tmp_path / "hub"))
    assert "neg_caption" not in rows.column_names
    assert len(Neighbours.load(tmp_path / "mined/neighbours/train.parquet").rows) == 0


def test_a_push_takes_the_neighbours_and_the_page_along(photographs, model_folder, tmp_path, hub):
    mine(photographs, model_folder, tmp_path / "mined", **QUIET)
    call = f"from hf_tripletclip.push import push; push({str(tmp_path / 'mined')!r}, 'user/mined')"
    run_python(call, hub, tmp_path / "push")
    code = (
        "from datasets import load_dataset\n"
        "from huggingface_hub import snapshot_download\n"
        "from hf_tripletclip.mining import Neighbours\n"
        "assert len(load_dataset('user/mined', split='train')) == 40\n"
        "folder = snapshot_download('user/mined', repo_type='dataset')\n"
        "assert len(Neighbours.load(folder + '/neighbours/train.parquet')) == 40\n"
        "assert 'Guards' in open(folder + '/mining.html').read()\n"
    )
    run_python(code, hub, tmp_path / "load")


def test_neighbours_alone_keep_the_negatives_that_are_there(own_cache, model_folder, tmp_path):
    small = {"train_size": 24, "validation_size": 8, "test_size": 8, "num_proc": 1}
    mine("scenes", model_folder, tmp_path / "mined", splits=["train"], num_negatives=0, dataset_kwargs=small, **QUIET)
    rows = load_dataset(str(tmp_path / "mined"), split="train", cache_dir=str(tmp_path / "hub"))
    scenes = hf_tripletclip.load_scenes("train", **small)
    assert rows.column_names[:5] == ["id", "image", "caption", "neg_image", "neg_caption"]
    for name in ("caption", "neg_caption", "negative_type", "held_out"):
        assert rows[name] == scenes[name]
    assert np.array_equal(np.asarray(rows[5]["neg_image"]), np.asarray(scenes[5]["neg_image"]))
    assert main(["validate", str(tmp_path / "mined"), "--num_workers", "1"]) == 0


def test_needs_no_library_that_generates(photographs, model_folder, tmp_path):
    code = f"""
import sys
for name in ("datatrove", "nltk", "diffusers", "peft", "gradio", "matplotlib"):
    sys.modules[name] = None
from hf_tripletclip import mine
assert mine({str(photographs)!r}, {str(model_folder)!r}, {str(tmp_path / "mined")!r}, progress=False).rows == 40
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert main(["generate", "--status", str(tmp_path / "mined")]) == 0


def files_of(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and ".generation" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_same_bytes_again_and_after_a_stop(photographs, model_folder, tmp_path, monkeypatch):
    mine(photographs, model_folder, tmp_path / "one/mined", **QUIET)
    encoded = []
    monkeypatch.setattr("hf_tripletclip.mining.run.ENCODED", 8)
    whole = Encoder._encode_images
    monkeypatch.setattr(
        Encoder, "_encode_images", lambda self, images: encoded.append(len(images)) or whole(self, images)
    )
    with monkeypatch.context() as stopped:
        stopped.setattr("hf_tripletclip.mining.run.write_mining_page", _stop)
        with pytest.raises(KeyboardInterrupt):
            mine(photographs, model_folder, tmp_path / "two/mined", **QUIET)
    assert not (tmp_path / "two/mined/report.json").exists()
    assert encoded == [8, 8, 4]
    report = mine(photographs, model_folder, tmp_path / "two/mined", **QUIET)
    assert encoded == [8, 8, 4]  # what was encoded is not encoded again
    assert files_of(tmp_path / "one/mined") == files_of(tmp_path / "two/mined")
    assert report.seconds > 0
    again = mine(photographs, model_folder, tmp_path / "two/mined", **QUIET)
    assert (again.seconds, again.refused, again.kept) == (0.0, report.refused, report.kept)
    assert sorted(path.name for path in (tmp_path / "two/mined/.generation").iterdir()) == ["lock"]


def _stop(*args, **kwargs):
    raise KeyboardInterrupt


def test_other_settings_and_changed_data_are_refused_until_overwritten(photographs, model_folder, tmp_path):
    output = tmp_path / "mined"
    mine(photographs, model_folder, output, **QUIET)
    with pytest.raises(FileExistsError, match=r"mine.range_min was 0 and is 2"):
        mine(photographs, model_folder, output, range_min=2, **QUIET)
    Image.new("RGB", (8, 8)).save(photographs / "pictures/03.png")
    with pytest.raises(FileExistsError, match=r"source.digest.train was"):
        mine(photographs, model_folder, output, **QUIET)
    before = files_of(output)
    mine(photographs, model_folder, output, range_min=2, overwrite=True, **QUIET)
    assert files_of(output)["data/train-00000-of-00001.parquet"] != before["data/train-00000-of-00001.parquet"]


def test_refusals(photographs, model_folder, tmp_path):
    with pytest.raises(ValueError, match="is, holds or lies in the data"):
        mine(photographs, model_folder, photographs / "mined", **QUIET)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds thesis\.txt"):
        mine(photographs, model_folder, tmp_path / "full", **QUIET)
    with pytest.raises(ValueError, match=r"None of the 40 pairs has a negative.*max_score"):
        mine(photographs, model_folder, tmp_path / "mined", max_score=-2.0, **QUIET)
    with pytest.raises(TypeError, match="unexpected arguments nums"):
        mine(photographs, model_folder, tmp_path / "mined", nums=3)
    with pytest.raises(ValueError, match="not both"):
        mine(photographs, model_folder, tmp_path / "mined", settings=MiningSettings(), range_min=3)
    with pytest.raises(OSError, match="nowhere"):
        mine(tmp_path / "nowhere", model_folder, tmp_path / "mined", **QUIET)


def test_an_unfinished_run_of_generate_is_not_touched(photographs, model_folder, tmp_path):
    making = tmp_path / "mined/.generation/plan.json"
    other = Plan({"splits": ["train"], "rows": {"train": 3}}, 2, {"captions": {"stage": "rules"}}, {})
    other.save(making)
    (making.parent / "lock").touch()
    with pytest.raises(FileExistsError, match="unfinished run of `tripletclip generate`"):
        mine(photographs, model_folder, tmp_path / "mined", **QUIET)
    assert other.is_in(making)
    assert mine(photographs, model_folder, tmp_path / "mined", overwrite=True, **QUIET).kept == {"train": 40}


def test_nothing_that_can_be_read(photographs, model_folder, tmp_path):
    for path in (photographs / "pictures").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="None of the 40 pairs has a negative"):
        mine(photographs, model_folder, tmp_path / "mined", **QUIET)


def test_broken_images_and_captions_are_left_out_and_told(tmp_path, own_cache, model_folder):
    rows = [(f"{number}.png", [caption_of(number)]) for number in range(12)]
    folder = write_photographs(tmp_path / "data", [*rows, ("x.png", [""])])
    (folder / "pictures/3.png").write_bytes(b"no picture")
    report = mine(folder, model_folder, tmp_path / "mined", **QUIET)
    assert report.kept == {"train": 11}
    assert sum(report.left_out.values()) == 2
    left = [json.loads(line) for line in (tmp_path / "mined/left_out.jsonl").read_text().splitlines()]
    assert [(line["row"], line["reason"].split(":")[0]) for line in left] == [
        (3, "image cannot be read"),
        (12, "empty caption"),
    ]


def test_the_command(photographs, model_folder, tmp_path, capsys):
    output = tmp_path / "mined"
    arguments = [str(photographs), "--model", str(model_folder), "--output", str(output), "--disable_tqdm"]
    assert main(["mine", *arguments, "--relative_margin", "-1", "--samples", "4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("40 rows of 40 pairs: 40 train")
    assert "near pairs were looked at" in said
    assert json.loads((output / "plan.json").read_text())["stages"]["mine"]["relative_margin"] is None
    page = (output / "mining.html").read_text()
    assert page.count("<article") == 4
    assert "data:image/jpeg" in page
    assert str(tmp_path) not in page
    assert main(["mine", *arguments, "--relative_margin", "-1", "--range_min", "3"]) == 1
    assert "range_min was 0 and is 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a dataset"),
        (["scenes"], "name a model"),
        (["scenes", "--data", "x", "--model", "y"], "in one place"),
        (["scenes", "--model", "y", "--images", "z"], "`scenes` has no revisions"),
        (["x", "--model", "y", "--scenes_options", '{"nouns": 3}'], "`scenes_options` are for `scenes`"),
        (["x", "--model", "y", "--similarity", "sound"], "`similarity` is 'sound'"),
        (["x", "--model", "y", "--rang_min", "3"], "did you mean"),
        (["x", "--model", "y", "--samples", "-3"], "`samples` is -3"),
    ],
)
def test_commands_that_cannot_be_meant(arguments, said, capsys, tmp_path):
    assert main(["mine", *arguments, "--output", str(tmp_path / "mined")]) == 1
    assert said in capsys.readouterr().err
