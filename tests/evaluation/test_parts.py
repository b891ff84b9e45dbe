# SPDX-License-Identifier: Apache-2.0
"""Finding images by other people's paths, tables of images, and settings of benchmarks in parts."""

from __future__ import annotations

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature

from hf_tripletclip.evaluation.parts import ImageFinder, image_cells, listed_rows
from hf_tripletclip.evaluation.registry import get_benchmark
from tests.evaluation.benchmarks import picture, write_images, write_table


def test_the_longest_end_of_a_path_that_is_there_counts(tmp_path):
    write_images(tmp_path, ["a.png", "val/a.png", "other/b.png"])
    base, other = tmp_path, tmp_path / "other"
    assert ImageFinder([base])("a.png").path == str(tmp_path / "a.png")
    assert ImageFinder([base])("/data/someone/val/a.png").path == str(tmp_path / "val" / "a.png")
    assert ImageFinder([base])(r"D:\data\val\a.png").path == str(tmp_path / "val" / "a.png")
    assert ImageFinder([base, other])("x/a.png").path == str(tmp_path / "a.png")
    assert ImageFinder([base, other])("x/b.png").path == str(tmp_path / "other" / "b.png")
    assert ImageFinder([other])(str(tmp_path / "a.png")).path == str(tmp_path / "a.png")  # a path that is right
    missing = ImageFinder([base, other])("x/c.png")
    assert (missing.path, missing.exists()) == (str(tmp_path / "c.png"), False)


@pytest.mark.parametrize("column", ["image", "images"])
@pytest.mark.parametrize("listed", [False, True])
def test_the_images_of_a_table(tmp_path, column, listed):
    folder = write_images(tmp_path / "photos", ["a.png", "b.png"])
    paths = [str(folder / name) for name in ("a.png", "b.png", "a.png")]
    values = [[path, paths[0]] for path in paths] if listed else paths
    write_table(tmp_path / "table.parquet", {column: values, "text": ["x"] * 3}, column)
    cells = image_cells(Dataset.from_parquet(str(tmp_path / "table.parquet"), cache_dir=str(tmp_path)), "table")
    assert [cell.load().tobytes() for cell in cells[:2]] == [picture(name).tobytes() for name in ("a.png", "b.png")]
    assert cells[0] == cells[2] != cells[1]  # by contents: encoded once


def test_a_table_without_images(tmp_path):
    with pytest.raises(ValueError, match=r"mine has no column image or images; it has caption"):
        image_cells(Dataset.from_dict({"caption": ["x"]}), "mine")
    empty = Dataset.from_dict({"image": [None]}).cast_column("image", ImageFeature())
    assert len(image_cells(empty, "mine")) == 1


def test_listed_rows(tmp_path):
    write_images(tmp_path / "images", ["a.png"])
    line = '{"image_file_name": "a.png", "positive_caption": ["p"], "negative_caption": ["n", "m"]}\n'
    (tmp_path / "examples.jsonl").write_text(line)
    ((number, row, image, where),) = listed_rows(str(tmp_path), None)
    assert (number, row["negative_caption"], where) == (0, ["n", "m"], f"{tmp_path}, row 0")
    assert image.load().tobytes() == picture("a.png").tobytes()
    (tmp_path / "examples.jsonl").write_text(line.replace('["n", "m"]', "[]"))
    with pytest.raises(ValueError, match=r"row 0: negative_caption is \[\], where a list of captions is expected"):
        list(listed_rows(str(tmp_path), None))
    (tmp_path / "examples.jsonl").write_text('{"positive_caption": ["p"]}\n')
    with pytest.raises(ValueError, match="has no column negative_caption"):
        list(listed_rows(str(tmp_path), None))


@pytest.mark.parametrize("name", ["sugarcrepe", "sugarcrepe_pp", "aro", "valse", "negbench", "whatsup"])
def test_settings_of_json(name):
    part, *_ = type(get_benchmark(name, {"annotations": "somewhere"})).FILES
    benchmark = get_benchmark(name, {"annotations": "somewhere", "images": "photos", "parts": [part]})
    assert benchmark.parts == (part,)
    with pytest.raises(ValueError, match=rf"{name}: there is no nothing; the parts are {part}"):
        get_benchmark(name, {"annotations": "somewhere", "parts": ["nothing"]})
    assert benchmark.wants(part)
    assert not benchmark.wants("nothing")
