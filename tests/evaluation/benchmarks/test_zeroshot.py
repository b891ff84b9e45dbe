# SPDX-License-Identifier: Apache-2.0
"""Zero-shot classification from all layouts, against a float64 computation of one prompt and one image at a time."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers.utils import logging

from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.zeroshot import ZeroShot, same_names
from hf_tripletclip.evaluation.readers.class_sets import LabelledSet
from hf_tripletclip.evaluation.readers.clip_benchmark import VTAB18, locate, short_name
from hf_tripletclip.evaluation.readers.prompts import imagenet_classes, openai_templates, prompt, read_templates
from hf_tripletclip.evaluation.recall import first_hits
from hf_tripletclip.evaluation.registry import get_benchmark
from tests.evaluation.benchmarks import Naive, picture, write_images
from tests.loopback_hub import HubError, run_python

CLASSES = ["a red cat", "blue cat", "red dog", "blue dog", "cat", "dog", "red red"]
TEMPLATES = ["a photo of {c}", "the {c}", "{c}"]
# Class -> its images; one has no images.
IMAGES = {0: 4, 1: 3, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3}
ROWS = [(label, f"{label}-{index}.png") for label, number in IMAGES.items() for index in range(number)]


def png(name: str) -> bytes:
    buffer = io.BytesIO()
    picture(name).save(buffer, format="png")
    return buffer.getvalue()


def tars(folder: Path, rows=ROWS, classes=CLASSES, templates=TEMPLATES, extension: str = "png") -> str:
    """Two tars, as `clip-benchmark/wds_*` has them."""
    (folder / "test").mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for index, (label, name) in list(enumerate(rows))[shard::2]:
                members = {f"s{index:07d}.{extension}": png(name), f"s{index:07d}.cls": str(label).encode()}
                for member, content in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text("2\n")
    if classes:
        (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
    if templates:
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    return str(folder)


def class_folders(folder: Path) -> str:
    for label, number in IMAGES.items():
        (folder / f"{label:03d}").mkdir(parents=True)
        for index in range(number):
            picture(f"{label}-{index}.png").save(folder / f"{label:03d}" / f"{index}.png")
    (folder / "classnames.txt").write_text("\n".join(CLASSES))
    return str(folder)


def split_folders(folder: Path) -> str:
    class_folders(folder / "test")
    write_images(folder / "train" / "000", ["x.png"])
    return str(folder)


def table(folder: Path, names=CLASSES) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=list(names))})
    rows = {"img": [{"bytes": png(n), "path": None} for _, n in ROWS], "fine": [label for label, _ in ROWS]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "test-0.parquet")
    return str(folder)


def naive_metrics(naive: Naive, rows=ROWS, classes=CLASSES, templates=TEMPLATES) -> dict[str, float]:
    """The metrics as their definitions say; a wrong class with an equal score is before the right one."""
    weights = []
    for name in classes:
        texts = [naive.text(template.replace("{c}", name)) for template in templates]
        mean = np.mean([text / np.linalg.norm(text) for text in texts], axis=0)
        weights.append(mean / np.linalg.norm(mean))
    ranks: dict[int, list[int]] = {}
    for label, name in rows:
        image = naive.image(picture(name))
        scores = [float(weight @ image / np.linalg.norm(image)) for weight in weights]
        rank = sum(score >= scores[label] for other, score in enumerate(scores) if other != label)
        ranks.setdefault(label, []).append(rank)
    every = [rank for of_class in ranks.values() for rank in of_class]
    return {
        "top1": sum(rank < 1 for rank in every) / len(every),
        "top5": sum(rank < 5 for rank in every) / len(every),
        "mean_per_class": sum(sum(rank < 1 for rank in few) / len(few) for few in ranks.values()) / len(ranks),
    }


def test_against_one_prompt_and_image_at_a_time(tmp_path, model, processor, naive):
    result = ZeroShot(data=tars(tmp_path / "set"))(model, processor, batch_size=4, progress=False)
    expected = naive_metrics(naive)
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert len(set(expected.values())) == 3  # a mean over the images is not one over the classes
    assert set(result.intervals) == {"top1", "top5", "mean_per_class"}
    assert result.counts == {"rows": 15, "images": 15, "classes": 7, "missing": 0}
    assert result.chance == pytest.approx({"top1": 1 / 7, "top5": 5 / 7, "mean_per_class": 1 / 7})
    row = {name: values[0] for name, values in result.predictions.items()}
    assert (row["class"], row["label"], row["set"]) == ("a red cat", 0, "set")
    assert all(type(value) is bool for value in result.predictions["top1"])
    for right, rival, top1 in zip(*(result.predictions[name] for name in ("class", "rival", "top1")), strict=True):
        assert rival != right or not top1


@pytest.mark.parametrize("layout", [class_folders, split_folders, table])
def test_layouts_agree(tmp_path, model, processor, layout):
    expected = ZeroShot(data=tars(tmp_path / "tars"))(model, processor, progress=False)
    result = ZeroShot(data=layout(tmp_path / "set"), templates=TEMPLATES)(model, processor, progress=False)
    assert result.metrics == expected.metrics
    assert sorted(result.predictions["rank"]) == sorted(expected.predictions["rank"])


def test_a_set_that_mixes_kinds_of_files(tmp_path, model, processor):
    expected = ZeroShot(data=tars(tmp_path / "set"))(model, processor, progress=False)
    mixed = tmp_path / "mixed"
    tars(mixed, rows=ROWS[:7])
    tars(tmp_path / "more", rows=ROWS[7:], extension="webp")
    for number in range(2):
        before, after = tmp_path / "more" / "test" / f"{number}.tar", mixed / "test" / f"0{number}.tar"
        with tarfile.open(before) as source, tarfile.open(after, "w") as target:
            for info in source:
                content = source.extractfile(info)
                info.name = f"t{info.name[1:]}"
                target.addfile(info, content)
    result = ZeroShot(data=str(mixed))(model, processor, progress=False)
    assert result.counts["rows"] == 15
    assert result.metrics == expected.metrics


def test_a_collapsed_model(tmp_path, collapsed, processor):
    data = tars(tmp_path / "set")
    strict = ZeroShot(data=data)(collapsed, processor, progress=False)
    assert (strict.metrics["top1"], strict.metrics["top5"], strict.metrics["mean_per_class"]) == (0.0, 0.0, 0.0)
    assert strict.metrics["tie_rate"] == 1.0
    official = ZeroShot(data=data, protocol="official")(collapsed, processor, progress=False)
    assert official.metrics["top1"] > 0.0
    assert official.metrics["top5"] > 0.5


def test_official_where_nothing_ties_is_the_same(tmp_path, model, processor):
    data = tars(tmp_path / "set")
    results = [ZeroShot(data=data, protocol=name)(model, processor, progress=False) for name in ("strict", "official")]
    assert results[0].metrics == results[1].metrics


@pytest.mark.parametrize(("protocol", "number", "there"), [("strict", 6, True), ("strict", 5, False)])
def test_top5_of_few_classes(tmp_path, model, processor, protocol, number, there):
    rows = [row for row in ROWS if row[0] < number]
    benchmark = ZeroShot(data=tars(tmp_path / "set", rows, CLASSES[:number]), protocol=protocol)
    result = benchmark(model, processor, progress=False)
    assert ("top5" in result.metrics) is there
    assert ("top5" in result.chance) is there


def test_official_takes_the_first_of_equal_classes_for_the_mean_per_class(tmp_path, collapsed, processor):
    data = tars(tmp_path / "set")
    result = ZeroShot(data=data, protocol="official")(collapsed, processor, progress=False)
    first = sum(label == 0 for label in result.predictions["label"]) > 0
    assert result.metrics["mean_per_class"] == pytest.approx(first / len(set(result.predictions["label"])))
    assert result.predictions["best"] == [label == 0 for label in result.predictions["label"]]
    # `torch.topk` takes any of them: with these scores not always the first.
    scores = torch.ones(1, 40)
    assert first_hits(scores[:, :1], scores.T, [[0]]).tolist() == [True]


def test_official_has_a_top5_of_five_classes(tmp_path, model, processor):
    rows = [row for row in ROWS if row[0] < 5]
    data = tars(tmp_path / "set", rows, CLASSES[:5])
    assert ZeroShot(data=data, protocol="official")(model, processor, progress=False).metrics["top5"] == 1.0


def test_classes_of_one_name_do_not_compete(tmp_path, model, processor):
    data = tars(tmp_path / "set", [(0, "x.png"), (1, "y.png")], ["a cat", "a cat"])
    strict = ZeroShot(data=data)(model, processor, progress=False)
    assert strict.metrics["top1"] == 1.0 == strict.chance["top1"]
    assert strict.predictions["rival"] == [None, None]
    official = ZeroShot(data=data, protocol="official")(model, processor, progress=False)
    assert official.metrics["top1"] == 0.5
    found = LabelledSet(["0", "1", "2"], [], [2, 0, 1], ["x", "y", "x"])
    assert same_names(found) == [[0, 2], [0, 2], [1]]


def test_several_sets(tmp_path, model, processor, naive):
    tars(tmp_path / "wds_vtab-dtd")
    few = [(0, "p.png"), (1, "q.png"), (1, "r.png")]
    tars(tmp_path / "wds_vtab-pcam", few, CLASSES[:2], TEMPLATES[:1])
    benchmark = ZeroShot(data=str(tmp_path), datasets=["vtab/dtd", "vtab/pcam"])
    result = benchmark(model, processor, progress=False)
    dtd, pcam = naive_metrics(naive), naive_metrics(naive, few, CLASSES[:2], TEMPLATES[:1])
    expected = {f"dtd_{name}": value for name, value in dtd.items()}
    expected |= {"pcam_top1": pcam["top1"], "pcam_mean_per_class": pcam["mean_per_class"], "top5": dtd["top5"]}
    expected |= {name: (dtd[name] + pcam[name]) / 2 for name in ("top1", "mean_per_class")}
    metrics = {name: value for name, value in result.metrics.items() if name != "tie_rate"}
    assert metrics == pytest.approx(expected, abs=1e-12)
    assert result.chance["top1"] == pytest.approx((1 / 7 + 1 / 2) / 2)
    assert result.chance["top5"] == pytest.approx(5 / 7)
    assert result.counts["dtd"] == 15
    assert result.counts["pcam"] == 3
    assert len(set(result.predictions["key"])) == 18
    assert len(set(result.predictions["cluster"])) == 18


def test_the_18_sets(tmp_path, model, processor):
    assert len(set(VTAB18)) == 18
    for index, name in enumerate(VTAB18):
        tars(tmp_path / f"wds_{name.replace('/', '-')}", ROWS[index % 3 :: 3], templates=TEMPLATES[:1])
    result = ZeroShot(data=str(tmp_path), datasets=["vtab18"])(model, processor, progress=False)
    for metric in ("top1", "top5", "mean_per_class"):
        of_sets = [result.metrics[f"{name.removeprefix('vtab/')}_{metric}"] for name in VTAB18]
        assert result.metrics[f"vtab_{metric}"] == pytest.approx(sum(of_sets) / 18)
        assert result.metrics[metric] == pytest.approx(sum(of_sets) / 18)


def test_a_single_image(tmp_path, model, processor):
    result = ZeroShot(data=tars(tmp_path / "set", [(3, "x.png")]))(model, processor, progress=False)
    assert result.metrics["top1"] in (0.0, 1.0)
    assert result.metrics["mean_per_class"] == result.metrics["top1"]


# ---- Names and templates ----


def test_lists_of_imagenet():
    names = imagenet_classes()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert (names["n01440764"], names["n15075141"]) == ("tench", "toilet paper")
    templates = openai_templates()
    assert len(set(templates)) == 80
    assert all(template.count("{c}") == 1 for template in templates)


def test_folders_of_imagenet(tmp_path):
    write_images(tmp_path / "val", ["n01440764/a.JPEG", "n01443537/b.JPEG"])
    found = ZeroShot(data=str(tmp_path), split="val").read(str(tmp_path))
    assert found.classnames == ["tench", "goldfish"]
    assert found.keys == ["n01440764/a.JPEG", "n01443537/b.JPEG"]


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        ([str(number) for number in range(12)], list(range(12))),  # as text, 10 comes before 2
        ([f"{number:03d}" for number in range(12)], list(range(12))),
        (["0", "2", "10", "11"], [0, 2, 10, 11]),  # a class that no image has
        (["7", "08", "9"], [7, 8, 9]),
    ],
)
def test_folders_called_by_numbers_are_places_among_the_names(tmp_path, folders, labels, caplog):
    names = [f"thing {number}" for number in range(12)]
    write_images(tmp_path / "set", [f"{name}/x.png" for name in folders])
    found = ZeroShot(data=str(tmp_path / "set"), classnames=names).read(str(tmp_path / "set"))
    assert found.classnames == names
    assert dict(zip([key.split("/")[0] for key in found.keys], found.labels, strict=True)) == dict(
        zip(folders, labels, strict=True)
    )
    # Also through `datasets`, which sorts them as text: it is asked for a split that no folder is called by.
    write_images(tmp_path / "other" / "valid", [f"{name}/x.png" for name in folders])
    write_images(tmp_path / "other" / "train", ["0/y.png"])
    table = ZeroShot(data="x", split="validation", classnames=names).read(str(tmp_path / "other"))
    assert sorted(table.labels) == labels
    alone = ZeroShot(data="x").read(str(tmp_path / "set"))  # without names the numbers are what is asked for
    assert [alone.classnames[label] for label in alone.labels] == folders


def test_numbers_that_are_no_places_are_refused(tmp_path):
    write_images(tmp_path / "from1", ["1/x.png", "2/x.png"])
    with pytest.raises(ValueError, match=r"2 class names: .* 0 to 1, and these are 1 to 2"):
        ZeroShot(data="x", classnames=["cat", "dog"]).read(str(tmp_path / "from1"))
    write_images(tmp_path / "twice", ["1/x.png", "01/x.png"])
    with pytest.raises(ValueError, match="two classes have the same number"):
        ZeroShot(data="x", classnames=["cat", "dog"]).read(str(tmp_path / "twice"))


def test_what_archives_leave_is_no_class_and_nested_pictures_are_read(tmp_path, caplog):
    there = ["cat/1.png", "cat/more/deep/2.png", "dog/1.TIF", "dog/__MACOSX/3.png", "__MACOSX/cat/._1.png"]
    write_images(tmp_path, there)
    for name in ("cat/._1.png", "cat/.DS_Store", ".cache/1.png", "dog/notes.txt", "dog/1.heic", "stray.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "dog" / "around").symlink_to(tmp_path / "dog")
    with caplog.at_level("WARNING"):
        logging.enable_propagation()
        found = ZeroShot(data="x").read(str(tmp_path))
        logging.disable_propagation()
    assert found.keys == ["cat/1.png", "cat/more/deep/2.png", "dog/1.TIF"]
    assert (found.labels, found.classnames) == ([0, 0, 1], ["cat", "dog"])
    assert all(image.load().size == (20, 16) for image in found.images)
    assert (
        "3 files are no pictures of a class and are skipped, such as stray.jpg, dog/1.heic, dog/notes.txt"
        in caplog.text
    )


def test_folders_of_imagenet_beside_all_its_names(tmp_path):
    write_images(tmp_path, ["n02084071/x.png", "n01443537/x.png"])
    with pytest.raises(ValueError, match="n02084071 are not among the 1,000 classes of ImageNet"):
        ZeroShot(data="x").read(str(tmp_path))
    (tmp_path / "n02084071").rename(tmp_path / "n15075141")
    found = ZeroShot(data="x", classnames="imagenet1k").read(str(tmp_path))
    assert (len(found.classnames), found.labels) == (1000, [1, 999])  # goldfish, toilet paper


def test_folders_without_a_file_of_names(tmp_path):
    write_images(tmp_path, ["red_cat/a.png", "dog/b.png"])
    found = ZeroShot(data=str(tmp_path)).read(str(tmp_path))
    assert found.classnames == ["dog", "red cat"]
    assert found.labels == [0, 1]
    given = ZeroShot(data=str(tmp_path), classnames=["hound", "tomcat"]).read(str(tmp_path))
    assert given.classnames == ["hound", "tomcat"]


def test_the_table_of_imagenet_gets_the_names_of_openai(tmp_path):
    names = ["tench, Tinca tinca", *(f"synset {index}" for index in range(999))]
    assert ZeroShot(data="x").read(table(tmp_path, names)).classnames == list(imagenet_classes().values())


def test_an_empty_class_name_keeps_its_place(tmp_path):
    # `clevr_closest_object_distance` has one.
    data = tars(tmp_path / "set", [(2, "x.png")], ["near", "", "distant"])
    assert ZeroShot(data=data).read(data).classnames == ["near", "", "distant"]


def test_templates(tmp_path):
    assert prompt("a {c} with a {c}", "cat {x}") == "a cat {x} with a cat {x}"
    assert prompt("a {}", "cat") == "a cat"
    assert read_templates("a photo of a {c}") == ["a photo of a {c}"]
    assert read_templates("openai") == openai_templates()
    (tmp_path / "templates.txt").write_text("a {c}\n\nthe {c}\n")
    assert read_templates(str(tmp_path / "templates.txt")) == ["a {c}", "the {c}"]
    with pytest.raises(ValueError, match=r"the template 'a photo' has no {c}"):
        read_templates(["a photo"])
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt is no file of templates"):
        read_templates("nowhere.txt")


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("vtab/dtd", None, "clip-benchmark/wds_vtab-dtd"),
        ("imagenet1k", None, "clip-benchmark/wds_imagenet1k"),
        ("someone/set", None, "someone/set"),
    ],
)
def test_where_sets_are(name, folder, expected):
    assert locate(name, folder) == expected


@pytest.mark.parametrize(
    "name", ["vtab/dtd", "clip-benchmark/wds_vtab-dtd", "/data/dtd", "/data/wds_vtab-dtd/", "dtd"]
)
def test_short_names(name):
    assert short_name(name) == "dtd"


# ---- Bad input ----


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match=r"give `data`, a set \(--data zeroshot=PATH_OR_HUB_ID\), or `datasets`"):
        ZeroShot()
    with pytest.raises(ValueError, match="`classnames` are those of one set"):
        ZeroShot(datasets=["vtab18"], classnames="imagenet1k")
    with pytest.raises(ValueError, match="two of the sets would be called 'dtd'"):
        ZeroShot(datasets=["dtd", "vtab/dtd"]).sources()
    with pytest.raises(ValueError, match="takes no names"):
        get_benchmark("zeroshot", {"data": "x", "names": []})


def test_bad_data(tmp_path):
    with pytest.raises(ValueError, match=r"has no classnames.txt: give the class names"):
        ZeroShot(data="x").read(tars(tmp_path / "nameless", classes=()))
    with pytest.raises(ValueError, match=r"has the labels \[6\], and there are 6 class names"):
        ZeroShot(data="x").read(tars(tmp_path / "few", classes=CLASSES[:6]))
    with pytest.raises(ValueError, match=r"s0000000.cls: a label is a whole number, not 'cat'"):
        ZeroShot(data="x").read(tars(tmp_path / "words", rows=[("cat", "x.png")]))
    with pytest.raises(ValueError, match="has no split 'val'; it has test"):
        ZeroShot(data="x", split="val").read(tars(tmp_path / "set"))
    with pytest.raises(ValueError, match="has 7 folders of classes, and there are 2 class names"):
        ZeroShot(data="x", classnames=["a", "b"]).read(class_folders(tmp_path / "folders"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt is no file of class names"):
        ZeroShot(data="x", classnames="nowhere.txt").read(str(tmp_path / "set"))


def test_bad_tables(tmp_path):
    data = table(tmp_path / "table")
    with pytest.raises(ValueError, match="has no column 'label'; it has img, fine"):
        ZeroShot(data="x", label_column="label").read(data)
    with pytest.raises(ValueError, match="has no column 'picture'; it has img, fine"):
        ZeroShot(data="x", image_column="picture").read(data)
    with pytest.raises(ValueError, match="has no split 'val'"):
        ZeroShot(data="x", split="val").read(data)
    (tmp_path / "numbers").mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": png("x"), "path": None}], "label": [0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "numbers" / "test-0.parquet")
    with pytest.raises(ValueError, match="column 'label' has no class names: give them"):
        ZeroShot(data="x").read(str(tmp_path / "numbers"))
    assert ZeroShot(data="x", classnames=["a"]).read(str(tmp_path / "numbers")).labels == [0]


def test_broken_images(tmp_path, model, processor):
    folder = Path(class_folders(tmp_path / "set"))
    (folder / "003" / "0.png").write_bytes(b"no picture")
    with pytest.raises(MissingImages, match=r"1 images, of 1 of 15 rows, cannot be read: 0\.png"):
        ZeroShot(data=str(folder))(model, processor, progress=False)
    benchmark = ZeroShot(data=str(folder), allow_missing=True, templates=TEMPLATES)
    result = benchmark(model, processor, progress=False)
    assert (result.counts["rows"], result.counts["broken"]) == (14, 1)
    assert 3 not in result.predictions["label"]


@pytest.mark.slow
def test_from_the_hub(tmp_path, hub):
    hub.add("dataset", "clip-benchmark/wds_vtab-dtd", Path(tars(tmp_path / "set")))
    code = (
        "from hf_tripletclip.evaluation.benchmarks.zeroshot import ZeroShot\n"
        "benchmark = ZeroShot(datasets=['vtab/dtd'])\n"
        "found = benchmark.read(benchmark.sources()['dtd'])\n"
        "print(sorted(found.labels), found.classnames, found.templates, found.images[0].load().size)"
    )
    expected = f"{sorted(label for label, _ in ROWS)} {CLASSES} {TEMPLATES} (20, 16)"
    assert expected in run_python(code, hub, tmp_path / "home").stdout


@pytest.mark.slow
def test_a_gated_set(tmp_path, hub):
    def refused(self, repo, revision, path):
        raise HubError(403, "GatedRepo", "Access to this dataset is restricted")

    hub.server.RequestHandlerClass.file = refused
    hub.add("dataset", "clip-benchmark/wds_imagenet1k", Path(tars(tmp_path / "set")))
    code = (
        "from hf_tripletclip.evaluation.benchmarks.zeroshot import ZeroShot\n"
        "ZeroShot(data='x').read('clip-benchmark/wds_imagenet1k')"
    )
    done = run_python(code, hub, tmp_path / "home", check=False)
    assert "PermissionError: clip-benchmark/wds_imagenet1k is a gated dataset: open https://" in done.stderr


def test_folders_called_by_a_word_and_a_number_are_in_the_order_of_the_numbers(tmp_path):
    for number in (0, 2, 10):
        write_images(tmp_path / f"class_{number}", ["a.png"])
    found = ZeroShot(data=str(tmp_path), classnames=["zero", "two", "ten"]).read(str(tmp_path))
    assert [key.partition("/")[0] for key in found.keys] == ["class_0", "class_2", "class_10"]
    assert found.labels == [0, 1, 2]
