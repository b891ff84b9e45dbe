# SPDX-License-Identifier: Apache-2.0
"""ARO: regions, means over relations and pairs of attributes, shuffled captions, ties, tables of the Hub's layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.aro import ARO, LEFT_OUT
from hf_tripletclip.evaluation.items import fingerprint
from tests.evaluation.benchmarks import HandEncoder, write_images, write_json, write_table
from tests.loopback_hub import run_python

BOXES = [(0, 0, 12, 12), (4, 2, 16, 12), (2, 3, 9, 13)]  # left, top, width, height
WORDS = ["a red cat", "a blue cat", "a red dog", "a blue dog", "a dog", "a cat", "dog a", "cat a red"]
ORDERS = ("coco_order", "flickr30k_order")


def region(image: str, true: str, false: str, box: tuple[int, ...] = BOXES[0], **kind: object) -> dict[str, object]:
    left, top, width, height = box
    edges = {"bbox_x": left, "bbox_y": top, "bbox_w": width, "bbox_h": height}
    return {"image_id": image, "image_path": image, "true_caption": true, "false_caption": false, **edges, **kind}


def write_parts(folder) -> None:
    """Relations: two that count and one that does not. Attributes: a pair of 25 rows, one of 24, one of 26."""
    relations = ["on", "on", "above", "near", "above", "above", "near"]
    pairs = [(WORDS[n % 8], WORDS[(3 * n + 1) % 8 if (3 * n + 1 - n) % 8 else (n + 1) % 8]) for n in range(75)]
    rows = [region(f"{n % 3}.png", *pairs[n], BOXES[n % 3], relation_name=name) for n, name in enumerate(relations)]
    write_json(folder / "visual_genome_relation.json", rows)
    attributes = [["red", "blue"]] * 25 + [["red", "old"]] * 24 + [["old", "blue"]] * 26
    rows = [
        region(f"{n % 3}.png", *pairs[n], BOXES[n % 2], attributes=pair, obj1_name="cat")
        for n, pair in enumerate(attributes)
    ]
    write_json(folder / "visual_genome_attribution.json", rows)
    write_images(folder / "images", [f"{n}.png" for n in range(3)], (24, 20))
    for part, prefix, size in (("coco_order", "val2014/COCO_", 6), ("flickr30k_order", "flickr30k-images/", 5)):
        rows = [
            {"image": f"{prefix}{n % 2}.png", "caption_options": [WORDS[(n + place) % 8] for place in range(5)]}
            for n in range(size)
        ]
        write_json(folder / f"{part}.json", rows)
        write_images(folder, [f"{prefix}{n}.png" for n in range(2)], (24, 20))


def rows_of(folder, part: str) -> list[dict]:
    return json.loads((folder / ARO.FILES[part]).read_text())


def test_scores_and_means_are_those_of_a_naive_computation(tmp_path, model, processor, naive):
    write_parts(tmp_path)
    result = ARO(annotations=str(tmp_path))(model, processor, batch_size=9, progress=False)
    expected, scores = {}, []
    for part in ("vg_relation", "vg_attribution"):
        groups = {}
        for row in rows_of(tmp_path, part):
            left, top, width, height = (row[f"bbox_{edge}"] for edge in "xywh")
            with Image.open(tmp_path / "images" / row["image_path"]) as image:
                crop = image.convert("RGB").crop((left, top, left + width, top + height))
            of_row = naive.scores(crop, [row["true_caption"], row["false_caption"]])
            scores.append(of_row)
            kind = row["relation_name"] if part == "vg_relation" else tuple(row["attributes"])
            groups.setdefault(kind, []).append(of_row[0] > of_row[1])
        counted = [
            np.mean(right)
            for kind, right in groups.items()
            if (kind not in LEFT_OUT if part == "vg_relation" else len(right) >= 25)
        ]
        assert len(counted) == 2
        expected[part] = np.mean(counted)
        expected[f"{part}_micro"] = np.mean([value for right in groups.values() for value in right])
        assert expected[part] != pytest.approx(expected[f"{part}_micro"])
    for part in ORDERS:
        right = []
        for row in rows_of(tmp_path, part):
            of_row = naive.scores(tmp_path / row["image"], row["caption_options"])
            scores.append(of_row)
            right.append(of_row[0] > max(of_row[1:]))
        expected[part] = np.mean(right)
    expected["macro"] = np.mean([expected[part] for part in ARO.FILES])
    assert result.predictions["score_i0c0"] == pytest.approx([of_row[0] for of_row in scores], abs=1e-6)
    assert result.predictions["score_i0c1"] == pytest.approx([of_row[1] for of_row in scores], abs=1e-6)
    assert result.metrics == pytest.approx({**expected, "tie_rate": 0.0})
    assert result.metrics.keys() >= result.intervals.keys() == expected.keys()
    low, high = result.intervals["macro"]
    assert low <= result.metrics["macro"] <= high
    assert result.chance == pytest.approx(
        {name: 1 / 5 if name in ORDERS else 1 / 2 for name in expected if name != "macro"} | {"macro": 7 / 20}
    )
    assert result.counts["images"] == 3 + 6 - 2 + 2 + 2  # two regions are of relations and attributes
    assert set(result.baselines) == {"longest caption", "shortest caption", "text tower"}
    for metrics in result.baselines.values():
        assert metrics["macro"] == pytest.approx(np.mean([metrics[part] for part in ARO.FILES]))


@pytest.mark.parametrize("protocol", ["strict", "official"])
def test_ties_and_single_rows(tmp_path, model, processor, protocol):
    relations = [("on", "p", "n"), ("on", "t", "n"), ("above", "n", "p"), ("near", "p", "n")]
    rows = [region("0.png", true, false, relation_name=name) for name, true, false in relations]
    write_json(tmp_path / "visual_genome_relation.json", rows)
    options = [["p", "n", "t"], ["t", "n", "m"], ["m", "n", "p"]]  # right, a tie with the second, wrong
    write_json(tmp_path / "coco_order.json", [{"image": "0.png", "caption_options": of_row} for of_row in options])
    write_images(tmp_path, ["0.png"])
    scores = {"p": 0.75, "n": 0.5, "t": 0.5, "m": 0.25}
    encoder = HandEncoder.of_scores(model, processor, {"0.png[0, 0, 12, 12]": scores, "0.png": scores})
    metrics = ARO(annotations=str(tmp_path), protocol=protocol)(encoder).metrics
    order = 1 / 3 if protocol == "strict" else 2 / 3  # a tie is wrong among relations, whose false caption is first
    relation = (1 / 2 + 0) / 2  # `near` does not count here
    assert metrics == pytest.approx(
        {
            "vg_relation": relation,
            "vg_relation_micro": 2 / 4,
            "coco_order": order,
            "macro": (relation + order) / 2,
            "tie_rate": 2 / 7,
        }
    )


def test_a_collapsed_model(tmp_path, collapsed, processor):
    write_parts(tmp_path)
    strict = ARO(annotations=str(tmp_path))(collapsed, processor, progress=False).metrics
    official = ARO(annotations=str(tmp_path), protocol="official")(collapsed, processor, progress=False).metrics
    assert strict.pop("tie_rate") == official.pop("tie_rate") == 1.0
    assert set(strict.values()) == {0.0}
    assert official == {name: 1.0 if name in ORDERS else 0.5 if name == "macro" else 0.0 for name in strict}


def write_tables(files, folder) -> None:
    """The same rows as tables of the layout of `mteb`."""
    for part in ("vg_relation", "vg_attribution"):
        rows = rows_of(files, part)
        name = "relation_name" if part == "vg_relation" else "attributes"
        columns = {key: [row[key] for row in rows] for key in ("true_caption", "false_caption", name)}
        columns["image"] = [str(files / "images" / row["image_path"]) for row in rows]
        columns["bbox"] = [{edge: float(row[f"bbox_{edge}"]) for edge in "xywh"} for row in rows]
        write_table(folder / ARO.TABLES[part] / "data" / "test-0.parquet", columns, "image")
    for part in ORDERS:
        rows = rows_of(files, part)
        names = ("correct_caption", *(f"hard_text_{place}" for place in range(1, 5)))
        columns = {name: [row["caption_options"][place] for row in rows] for place, name in enumerate(names)}
        columns["images"] = [str(files / row["image"]) for row in rows]
        write_table(folder / ARO.TABLES[part] / "data" / "test-0.parquet", columns, "images")


def test_tables_give_the_same(tmp_path, model, processor):
    write_parts(tmp_path / "files")
    write_tables(tmp_path / "files", tmp_path / "tables")
    of_files = ARO(annotations=str(tmp_path / "files"))(model, processor, progress=False)
    of_tables = ARO(annotations=str(tmp_path / "tables"))(model, processor, progress=False)
    assert of_tables.metrics == pytest.approx(of_files.metrics)
    assert of_tables.counts == of_files.counts
    assert of_tables.predictions["score_i0c1"] == pytest.approx(of_files.predictions["score_i0c1"], abs=1e-6)
    one = tmp_path / "tables" / "ARO-Visual-Relation"
    for benchmark in (ARO(annotations=str(one)), ARO(annotations=str(tmp_path / "tables"), parts=("vg_relation",))):
        metrics = benchmark(model, processor, progress=False).metrics
        assert metrics["macro"] == metrics["vg_relation"] == pytest.approx(of_files.metrics["vg_relation"])
        assert "coco_order" not in metrics


@pytest.mark.slow  # another process, because of the Hub
def test_the_tables_of_the_hub(tmp_path, hub):
    write_parts(tmp_path / "files")
    write_tables(tmp_path / "files", tmp_path / "tables")
    for table in ARO.TABLES.values():
        hub.add("dataset", f"mteb/{table}", tmp_path / "tables" / table)
    code = """if True:
        from hf_tripletclip.evaluation.items import fingerprint
        from hf_tripletclip.evaluation.benchmarks.aro import ARO
        items = ARO(annotations="mteb").items()
        items[0].images[0].load()
        print(len(items), fingerprint(items))
    """
    of_folder = ARO(annotations=str(tmp_path / "tables")).items()
    done = run_python(code, hub, tmp_path / "home")
    assert done.stdout.splitlines()[-1] == f"{len(of_folder)} {fingerprint(of_folder)}"


def test_regions_that_were_cut_out_already(tmp_path, model, processor):
    write_parts(tmp_path / "files")
    write_tables(tmp_path / "files", tmp_path / "tables")
    rows = rows_of(tmp_path / "files", "vg_relation")
    paths = []
    for number, row in enumerate(rows):
        left, top, width, height = (row[f"bbox_{edge}"] for edge in "xywh")
        paths.append(str(tmp_path / f"{number}.png"))
        with Image.open(tmp_path / "files" / "images" / row["image_path"]) as image:
            image.crop((left, top, left + width, top + height)).save(paths[-1])
    columns = {key: [row[key] for row in rows] for key in ("true_caption", "false_caption")}
    boxes = [{edge: row[f"bbox_{edge}"] for edge in "xywh"} for row in rows]
    write_table(
        tmp_path / "cut" / "ARO-Visual-Relation" / "0.parquet", {**columns, "image": paths, "bbox": boxes}, "image"
    )
    cut = ARO(annotations=str(tmp_path / "cut"))(model, processor, progress=False)
    whole = ARO(annotations=str(tmp_path / "tables"), parts=("vg_relation",))(model, processor, progress=False)
    assert cut.predictions["score_i0c0"] == pytest.approx(whole.predictions["score_i0c0"], abs=1e-6)
    # No table says here which relation a row is of.
    assert cut.metrics == {"vg_relation_micro": whole.metrics["vg_relation_micro"], "tie_rate": 0.0}


def test_max_rows_leave_the_groups_as_they_are(tmp_path, model, processor):
    write_parts(tmp_path)
    benchmark = ARO(annotations=str(tmp_path), parts=("vg_attribution",), max_rows=30)
    result = benchmark(model, processor, progress=False)
    assert {group for group in result.predictions["group"] if group} == {"red_blue", "old_blue"}
    assert result.counts["rows"] == 30


def test_images_of_one_name_are_not_confused(tmp_path, model, processor):
    write_parts(tmp_path)
    (tmp_path / "images" / "1.png").unlink()  # flickr30k-images has a 1.png too
    with pytest.raises(MissingImages, match=r"images/1.png"):
        ARO(annotations=str(tmp_path))(model, processor, progress=False)


@pytest.mark.parametrize(
    ("part", "row", "message"),
    [
        ("vg_relation", region("a.png", "p", "n"), r"row 0: no relation_name; it has image_id, "),
        ("vg_relation", {"image_path": "a", "true_caption": "p", "false_caption": "n"}, "row 0: no bbox_x, bbox_y"),
        ("vg_relation", region("a", "p", "n", (0, 0, 0, 4), relation_name="on"), r"the box is \[0, 0, 0, 4\]; left"),
        ("vg_attribution", region("a.png", "p", "n", attributes="red"), "attributes is 'red'; a list of two is"),
        ("vg_attribution", region("a.png", "p", 3, attributes=["a", "b"]), "false_caption is 3; a text is"),
        ("coco_order", {"image": "a.png", "caption": ["p", "q"]}, "row 0: no caption_options; it has image, caption"),
        ("flickr30k_order", {"image": "a.png", "caption_options": ["p"]}, r"caption_options is \['p'\]; a list"),
    ],
)
def test_bad_rows(tmp_path, part, row, message):
    write_json(tmp_path / ARO.FILES[part], [row])
    with pytest.raises(ValueError, match=message):
        ARO(annotations=str(tmp_path)).items()


def test_bad_input(tmp_path):
    for source in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"(has none of visual_genome_relation|does not exist).*\"mteb\""):
            ARO(annotations=str(source)).items()
    with pytest.raises(ValueError, match=r"there is no order; the parts are vg_relation, "):
        ARO(annotations="mteb", parts=("order",))
    (tmp_path / "ARO-COCO-order").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no ARO-Flickr-Order: see"):
        ARO(annotations=str(tmp_path), parts=("coco_order", "flickr30k_order")).items()


def test_relations_that_are_left_out():
    assert len(LEFT_OUT) == 157
    assert {"near", "next to", "wrapped in", "adjusting"} <= LEFT_OUT
    assert not {"", "on", "to the left of", "above", "riding"} & LEFT_OUT
