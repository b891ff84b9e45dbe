# SPDX-License-Identifier: Apache-2.0
"""Finding images by other people's paths, tables of images, and settings of benchmarks in parts."""

from __future__ import annotations

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature

from hf_tripletclip.evaluation.images import find_image
from hf_tripletclip.evaluation.readers.annotations import ImageFinder, image_cells, listed_rows
from hf_tripletclip.evaluation.registry import get_benchmark
from tests.evaluation.benchmarks import picture, write_images, write_json, write_table


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
    assert (missing.path, missing.exists()) == (str(tmp_path / "x" / "c.png"), False)  # as the annotations say


PRESENT = ["patient1/study1/view1.png", "patient3/study1/view1.png"]


@pytest.mark.parametrize(
    ("names", "there", "missing"),
    [
        # One patient's folder is there and another's is not.
        (["patient2/study1/view1.png"], PRESENT, {0}),
        (["patient2/study1/view1.png"], PRESENT[:1], {0}),
        (["data/patient2/study1/view1.png", "data/patient1/study1/view1.png"], PRESENT, {0}),
        (["alice/view1.png", "bob/view1.png"], ["bob/view1.png"], {0}),
        (["alice/view2.png", "bob/view1.png"], ["bob/view1.png", "bob/view2.png"], {0}),  # no name says bob/view2.png
        # The folder of one patient was given: which of the two it is, nothing tells.
        (["patient1/study1/view1.png", "patient2/study1/view1.png"], ["study1/view1.png"], {0, 1}),
        (["Alice/1.png", "alice/1.png"], ["alice/1.png"], {0}),  # capitals tell files apart
        # What is left out is the same of all, or says nothing: other people's machines.
        (["/home/x/val/1.png", "/home/x/val/2.png"], ["val/1.png", "val/2.png"], set()),
        (["/home/x/val/1.png", "/home/x/val/2.png"], ["1.png", "2.png"], set()),
        (["/home/x/val/1.png", "/home/x/val/2.png"], ["photos/1.png", "photos/2.png"], set()),
        (["x/coco/1.png", "x/voc/2.png"], ["coco/1.png", "voc/2.png"], set()),
        (["./val/1.png", "val/1.png"], ["val/1.png"], set()),
        (["1.png", "1.png"], ["photos/1.png"], set()),
    ],
)
def test_no_image_is_replaced_by_another_whose_path_ends_alike(tmp_path, names, there, missing):
    write_images(tmp_path, there)
    rows = [{"filename": name, "caption": "a", "negative_caption": "b"} for name in names]
    write_json(tmp_path / "json" / "swap_obj.json", rows)
    folders = {"annotations": str(tmp_path / "json"), "images": str(tmp_path)}
    images = [item.images[0] for item in get_benchmark("sugarcrepe", folders).items()]
    assert {place for place, image in enumerate(images) if not image.exists()} == missing
    for name, image in zip(names, images, strict=True):
        assert image.path.endswith(name.removeprefix("./").split("/")[-1])


def test_copies_and_links_are_one_image_and_others_are_not(tmp_path):
    write_images(tmp_path, ["a/1.png"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.png").write_bytes((tmp_path / "a" / "1.png").read_bytes())
    (tmp_path / "c").symlink_to(tmp_path / "a")
    folders = [tmp_path, *sorted(tmp_path.iterdir())]
    assert ImageFinder(folders)("1.png").load().tobytes() == picture("a/1.png").tobytes()
    picture("another").save(tmp_path / "b" / "1.png")
    with pytest.raises(ValueError, match=r"which image is it, .*a/1.png or .*b/1.png\? They differ"):
        ImageFinder(folders)("1.png")
    assert not ImageFinder(folders)("x/1.png").exists()
    with pytest.raises(ValueError, match="They differ: say which folder"):
        find_image(folders, "1.png")


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
    with pytest.raises(ValueError, match=r"row 0: negative_caption is \[\]; a list of captions is expected"):
        list(listed_rows(str(tmp_path), None))
    (tmp_path / "examples.jsonl").write_text('{"positive_caption": ["p"]}\n')
    with pytest.raises(ValueError, match="has no column negative_caption"):
        list(listed_rows(str(tmp_path), None))


def test_where_annotations_and_images_may_be(tmp_path):
    for on_hub in ("someone/crepe", "crepe"):
        get_benchmark("sugarcrepe", {"annotations": on_hub}).check_path()
        with pytest.raises(ValueError, match="has no images: say where they are"):
            get_benchmark("sugarcrepe", {"annotations": on_hub}).image_folders()
    for absent in ("/absent", "./crepe", "../crepe", "some/where/else"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            get_benchmark("sugarcrepe", {"annotations": absent}).check_path()
    write_images(tmp_path, ["val/a.png", "test/a.png", "__MACOSX/a.png", "b.png"])
    folders = get_benchmark("sugarcrepe", {"annotations": str(tmp_path)}).image_folders()
    assert folders == [tmp_path, tmp_path / "test", tmp_path / "val"]


@pytest.mark.parametrize("name", ["sugarcrepe", "sugarcrepe_pp", "aro", "valse", "negbench", "whatsup"])
def test_settings_of_json(name):
    part, *_ = type(get_benchmark(name, {"annotations": "somewhere"})).FILES
    benchmark = get_benchmark(name, {"annotations": "somewhere", "images": "photos", "parts": [part]})
    assert benchmark.parts == (part,)
    with pytest.raises(ValueError, match=rf"{name}: there is no nothing; the parts are {part}"):
        get_benchmark(name, {"annotations": "somewhere", "parts": ["nothing"]})
    assert benchmark.wants(part)
    assert not benchmark.wants("nothing")
