# SPDX-License-Identifier: Apache-2.0
"""Retrieval from all layouts, against a float64 computation of one pair at a time, and with equal captions."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
import pytest

from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.retrieval import Retrieval, own_pairs, true_pairs
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.evaluation.readers.retrieval_sets import Captioned
from hf_tripletclip.evaluation.registry import get_benchmark
from tests.evaluation.benchmarks import Naive, picture, write_images, write_json
from tests.loopback_hub import run_python

# Image -> captions: of several lengths, more than five, one caption of two images.
CAPTIONS = {
    "0.png": ["a red cat", "a cat", "red cat", "the red cat", "a red red cat", "a sixth caption"],
    "1.png": ["a blue cat", "a cat in blue"],
    "2.png": ["a red dog", "a dog"],
    "3.png": ["a blue dog", "a dog"],
}
DIRECTIONS = ("image_to_text", "text_to_image")
NAMES = [f"{direction}_recall@{k}" for direction in DIRECTIONS for k in (1, 5, 10)]


def karpathy(folder: Path, captions=CAPTIONS, split: str = "test") -> Path:
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text, "tokens": []} for text in texts]}
        for name, texts in captions.items()
    ]
    images.append({"filename": "train.png", "split": "train", "sentences": [{"raw": "not this one"}]})
    write_images(folder / "images", captions)
    return write_json(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})


def naive_metrics(naive: Naive, folder: Path, captions: dict[str, list[str]]) -> dict[str, float]:
    """Recall as its definition says, from scores of one pair at a time; a wrong one with an equal score is before."""
    names = list(captions)
    texts = [(name, text) for name in names for text in captions[name]]
    scores = {(name, text): naive.score(folder / name, text) for name in names for _, text in texts}
    ranks: dict[str, list[int]] = {direction: [] for direction in DIRECTIONS}
    for name in names:
        best = max(scores[name, text] for text in captions[name])
        wrong = [text for _, text in texts if text not in captions[name]]
        ranks["image_to_text"].append(sum(scores[name, text] >= best for text in wrong))
    for _, text in texts:
        best = max(scores[name, text] for name in names if text in captions[name])
        wrong_images = [name for name in names if text not in captions[name]]
        ranks["text_to_image"].append(sum(scores[name, text] >= best for name in wrong_images))
    found = {
        f"{direction}_recall@{k}": sum(rank < k for rank in ranks[direction]) / len(ranks[direction])
        for direction in DIRECTIONS
        for k in (1, 5, 10)
    }
    return found | {"mean_recall": sum(found.values()) / 6}


def first_five() -> dict[str, list[str]]:
    return {name: texts[:5] for name, texts in CAPTIONS.items()}


def test_against_one_pair_at_a_time(tmp_path, model, processor, naive):
    file = karpathy(tmp_path)
    result = Retrieval(data=str(file))(model, processor, batch_size=3, progress=False)
    expected = naive_metrics(naive, tmp_path / "images", first_five())
    metrics = {name: result.metrics[name] for name in expected}
    assert metrics == pytest.approx(expected, abs=1e-12)
    assert len(set(expected.values())) > 2  # not all alike
    assert result.counts == {
        "rows": 4 + 11,
        "images": 4,
        "captions": 11,
        "unique_images": 4,
        "unique_captions": 10,
        "missing": 0,
    }
    assert result.primary == "mean_recall"
    assert set(result.intervals) == {*NAMES, "mean_recall"}
    assert result.predictions["key"][:1] == ["image_to_text/0.png"]
    assert result.predictions["key"][-1] == "text_to_image/3.png/1"
    assert result.predictions["cluster"] == [0, 1, 2, 3, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert all(type(value) is bool for value in result.predictions["recall@5"])
    # Of 11 captions an image has five, and three of two: those of images 2 and 3 have one in common, twice.
    assert result.chance["image_to_text_recall@1"] == pytest.approx((5 + 2 + 3 + 3) / 4 / 11)
    assert result.chance["text_to_image_recall@1"] == pytest.approx((9 * 1 + 2 * 2) / 11 / 4)


def test_all_captions(tmp_path, model, processor, naive):
    result = Retrieval(data=str(karpathy(tmp_path)), captions_per_image=None)(model, processor, progress=False)
    expected = naive_metrics(naive, tmp_path / "images", CAPTIONS)
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert result.counts["captions"] == 12


def test_a_collapsed_model(tmp_path, collapsed, processor):
    file = karpathy(tmp_path, {f"{index}.png": [f"caption {index}"] for index in range(12)})
    strict = Retrieval(data=str(file))(collapsed, processor, progress=False)
    assert {strict.metrics[name] for name in (*NAMES, "mean_recall")} == {0.0}
    assert strict.metrics["tie_rate"] == 1.0
    official = Retrieval(data=str(file), protocol="official")(collapsed, processor, progress=False)
    assert official.metrics["image_to_text_recall@10"] > 0.5
    assert "torch.topk" in official.settings["scores"]


def test_official_where_nothing_ties_is_the_same(tmp_path, model, processor):
    captions = {name: texts for name, texts in CAPTIONS.items() if name != "3.png"}
    file = karpathy(tmp_path, captions)
    strict, official = (
        Retrieval(data=str(file), protocol=protocol, captions_per_image=5)(model, processor, progress=False)
        for protocol in ("strict", "official")
    )
    assert strict.metrics == official.metrics


def test_official_counts_every_caption(tmp_path, model, processor):
    file = str(karpathy(tmp_path))
    most = max(map(len, CAPTIONS.values()))
    assert most > 5
    kept = {protocol: Retrieval(data=file, protocol=protocol).rows() for protocol in ("strict", "official")}
    assert max(len(row.captions) for row in kept["strict"]) == 5
    assert max(len(row.captions) for row in kept["official"]) == most


def test_which_pairs_are_true():
    one, other = ImageFile("a.png"), ImageFile("b.png")
    rows = [
        Captioned("0", one, ["x", "y"]),
        Captioned("1", other, ["y", "z"]),  # a caption of two images
        Captioned("2", one, ["v"]),  # one image under two names
        Captioned("3", ImageFile("c.png"), []),  # nothing is said of it
    ]
    captions = ["x", "y", "y", "z", "v"]
    to_text, to_image = true_pairs(rows, captions)
    assert to_text == [[0, 1, 2, 4], [1, 2, 3], [0, 1, 2, 4], []]
    assert to_image == [[0, 2], [0, 1, 2], [0, 1, 2], [1], [0, 2]]
    assert own_pairs([0, 0, 1, 1, 2], 4) == ([[0, 1], [2, 3], [4], []], [[0], [0], [1], [1], [2]])


def test_each_caption_and_image_is_encoded_once(tmp_path, model, processor, monkeypatch):
    given = []
    for kind in ("images", "texts"):
        original = getattr(Encoder, kind)
        monkeypatch.setattr(
            Encoder, kind, lambda self, values, to=original: given.append(list(values)) or to(self, values)
        )
    Retrieval(data=str(karpathy(tmp_path)))(model, processor, progress=False)
    assert [len(values) for values in given] == [4, 10]
    assert all(len(values) == len(set(values)) for values in given)


def test_a_single_image(tmp_path, model, processor):
    result = Retrieval(data=str(karpathy(tmp_path, {"0.png": ["a red cat"]})))(model, processor, progress=False)
    assert result.metrics["mean_recall"] == 1.0 == result.chance["mean_recall"]
    assert result.predictions["rival"] == [None, None]


def test_an_image_without_captions_only_distracts(tmp_path, model, processor, naive):
    captions = {**first_five(), "4.png": []}
    result = Retrieval(data=str(karpathy(tmp_path, captions)))(model, processor, progress=False)
    assert result.counts["images"] == 5
    assert result.predictions["direction"].count("image_to_text") == 4
    assert result.chance["text_to_image_recall@1"] == pytest.approx((9 * 1 + 2 * 2) / 11 / 5)
    hits = []
    for name, texts in captions.items():
        for text in texts:
            right = max(
                naive.score(tmp_path / "images" / other, text) for other in captions if text in captions[other]
            )
            wrong = [
                naive.score(tmp_path / "images" / other, text) for other in captions if text not in captions[other]
            ]
            hits.append(right > max(wrong))
        assert name in captions
    assert result.metrics["text_to_image_recall@1"] == pytest.approx(sum(hits) / len(hits))


# ---- Layouts ----


def coco(folder: Path) -> str:
    names = list(CAPTIONS)
    write_images(folder / "val2017", names)
    annotations = [
        {"id": index, "image_id": names.index(name) + 100, "caption": text}
        for index, (name, text) in enumerate((name, text) for name in names for text in CAPTIONS[name])
    ]
    images = [{"id": number + 100, "file_name": name} for number, name in enumerate(names)]
    return str(write_json(folder / "captions_val2017.json", {"images": images, "annotations": annotations}))


def coco_karpathy(folder: Path) -> str:
    """As `dataset_coco.json` names them, with the images under COCO's names of 2017."""
    images = []
    for number, (name, texts) in enumerate(CAPTIONS.items(), 100):
        picture(name).save(folder / f"{number:012d}.jpg", format="png")
        images.append(
            {
                "filepath": "val2014",
                "filename": f"COCO_val2014_{number:012d}.jpg",
                "cocoid": number,
                "split": "test",
                "sentences": [{"raw": text} for text in texts],
            }
        )
    return str(write_json(folder / "dataset_coco.json", {"images": images}))


def png(name: str) -> bytes:
    buffer = io.BytesIO()
    picture(name).save(buffer, format="png")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def tars(folder: Path) -> str:
    """Two tars, as `clip-benchmark/wds_flickr30k` has them."""
    for shard, names in enumerate((("0.png", "1.png"), ("2.png", "3.png"))):
        members: dict[str, bytes] = {}
        for number, name in enumerate(names):
            key = f"s{shard * 2 + number:07d}"
            members |= {f"{key}.png": png(name), f"{key}.txt": "\n".join(CAPTIONS[name]).encode()}
        write_tar(folder / "test" / f"{shard}.tar", members)
    (folder / "test" / "nshards.txt").write_text("2\n")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return str(folder)


def table_of_lists(folder: Path) -> str:
    rows = {"image": [{"bytes": png(name), "path": None} for name in CAPTIONS], "caption": list(CAPTIONS.values())}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "test-0.parquet")
    return str(folder)


def table_of_captions(folder: Path) -> str:
    pairs = [(name, text) for name, texts in CAPTIONS.items() for text in texts]
    rows = {"jpg": [{"bytes": png(name), "path": None} for name, _ in pairs], "said": [text for _, text in pairs]}
    features = datasets.Features({"jpg": datasets.Image(), "said": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "test-0.parquet")
    return str(folder)


@pytest.mark.parametrize("layout", [coco, coco_karpathy, tars, table_of_lists, table_of_captions])
def test_layouts_agree(tmp_path, model, processor, layout):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    expected = Retrieval(data=str(karpathy(tmp_path / "one")))(model, processor, progress=False)
    column = "said" if layout is table_of_captions else None
    benchmark = Retrieval(data=layout(tmp_path / "other"), caption_column=column)
    result = benchmark(model, processor, progress=False)
    assert result.metrics == expected.metrics
    assert result.chance == expected.chance
    assert result.predictions["cluster"] == expected.predictions["cluster"]


@pytest.mark.slow
def test_from_the_hub_only_the_split_is_downloaded(tmp_path, hub):
    folder = Path(tars(tmp_path / "set"))
    write_tar(folder / "train" / "0.tar", {"s0.png": png("0.png"), "s0.txt": b"not this one"})
    hub.add("dataset", "clip-benchmark/wds_flickr30k", folder)
    code = (
        "from hf_tripletclip.evaluation.benchmarks.retrieval import Retrieval\n"
        "rows = Retrieval(data='clip-benchmark/wds_flickr30k').rows()\n"
        "print([row.captions for row in rows], [row.image.load().size for row in rows])"
    )
    home = tmp_path / "home"
    done = run_python(code, hub, home)
    assert str(list(first_five().values())) in done.stdout
    assert not [path for path in hub.downloads() if "train" in path]
    before = len(hub.log)
    assert run_python(code, hub, home, HF_HUB_OFFLINE="1").stdout == done.stdout  # from the cache
    assert len(hub.log) == before


@pytest.mark.slow
def test_no_network(tmp_path):
    code = (
        "from hf_tripletclip.evaluation.benchmarks.retrieval import Retrieval\n"
        "Retrieval(data='clip-benchmark/wds_flickr30k').rows()"
    )
    done = run_python(code, None, tmp_path, check=False)
    assert "FileNotFoundError: 'clip-benchmark/wds_flickr30k' is neither a path that exists nor" in done.stderr


# ---- Bad input ----


def test_missing_and_broken_images(tmp_path, model, processor, naive):
    file = karpathy(tmp_path)
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    with pytest.raises(MissingImages, match=r"Retrieval: 1 images, of 1 of 4 rows, are missing: .*1\.png"):
        Retrieval(data=str(file))(model, processor, progress=False)
    result = Retrieval(data=str(file), allow_missing=True)(model, processor, progress=False)
    assert (result.counts["missing"], result.counts["broken"], result.counts["images"]) == (1, 1, 2)
    left = {name: texts for name, texts in first_five().items() if name in ("0.png", "3.png")}
    expected = naive_metrics(naive, tmp_path / "images", left)
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_a_broken_image_of_a_table(tmp_path, model, processor):
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = {"image": [{"bytes": b"no picture", "path": None}], "caption": ["a red cat"]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test-0.parquet")
    with pytest.raises(MissingImages, match=r"cannot be read: image of row 0 \(unreadable image"):
        Retrieval(data=str(tmp_path))(model, processor, progress=False)
    with pytest.raises(ValueError, match="no row is left to evaluate"):
        Retrieval(data=str(tmp_path), allow_missing=True)(model, processor, progress=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON: .*line 1 column 2"),
        ("[]", "a JSON object with `images` and their `sentences`"),
        ('{"images": 3}', "images: a list is expected, not int"),
        ('{"images": [{"filename": "0.png"}]}', r"images\[0\]: no split, sentences; it has filename"),
        (
            '{"images": [{"filename": "0.png", "split": "train", "sentences": []}]}',
            "has no split 'test'; it has train",
        ),
        (
            '{"images": [{"filename": "0.png", "split": "test", "sentences": [{"raw": " "}]}]}',
            r"images\[0\]: empty caption",
        ),
        (
            '{"images": [{"filename": "0.png", "split": "test", "sentences": []}]}',
            "has no captions",
        ),
        (
            '{"images": [{"id": 1, "file_name": "0.png"}], "annotations": [{"image_id": 2, "caption": "a"}]}',
            r"annotations\[0\]: there is no image of the id 2",
        ),
    ],
)
def test_malformed_files(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Retrieval(data=str(tmp_path / "dataset.json")).rows()


def test_unknown_columns_and_splits(tmp_path):
    data = table_of_captions(tmp_path)
    with pytest.raises(ValueError, match=r"no column is called .*caption.*`caption_column`.*; there are jpg, said"):
        Retrieval(data=data).rows()
    with pytest.raises(ValueError, match="has no column 'text'; it has jpg, said"):
        Retrieval(data=data, caption_column="text").rows()
    with pytest.raises(ValueError, match="has no split 'val'; it has test"):
        Retrieval(data=data, split="val", caption_column="said").rows()


def test_damaged_tars_and_wrong_members(tmp_path):
    folder = Path(tars(tmp_path / "set"))
    with pytest.raises(ValueError, match="has no split 'val'; it has test"):
        Retrieval(data=str(folder), split="val").rows()
    tar = folder / "test" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(ValueError, match="tar cut short"):
        Retrieval(data=str(folder)).rows()
    tar.unlink()
    with pytest.raises(ValueError, match="has 1 of 2 tars"):
        Retrieval(data=str(folder)).rows()
    write_tar(tmp_path / "labels" / "test" / "0.tar", {"s0.png": png("0.png"), "s0.cls": b"0"})
    with pytest.raises(ValueError, match="no sample has a member txt and one of webp"):
        Retrieval(data=str(tmp_path / "labels")).rows()


def test_settings(tmp_path):
    with pytest.raises(ValueError, match="`captions_per_image` is 0"):
        Retrieval(data="x", captions_per_image=0)
    benchmark = get_benchmark("retrieval", {"data": str(karpathy(tmp_path)), "max_rows": 2})
    assert [row.key for row in benchmark.rows()] == ["1.png", "3.png"]
