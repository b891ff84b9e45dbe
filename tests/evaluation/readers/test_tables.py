# SPDX-License-Identifier: Apache-2.0
"""Reading official files, folders and the Hub, and what is said where that fails."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.evaluation.benchmarks.captions import Captions
from hf_tripletclip.evaluation.benchmarks.sugarcrepe import SugarCrepe
from hf_tripletclip.evaluation.benchmarks.winoground import Winoground
from hf_tripletclip.evaluation.readers.class_sets import read_labelled
from hf_tripletclip.evaluation.readers.clip_benchmark import find_tar_set
from hf_tripletclip.evaluation.readers.retrieval_sets import read_captioned
from hf_tripletclip.evaluation.readers.tables import image_folders, load_table, read_csv, take
from hf_tripletclip.evaluation.registry import EVERY, build_benchmark
from tests.loopback_hub import HubError, LoopbackHub, run_python


def table(rows: int = 3) -> Dataset:
    columns = {"picture": [Image.new("RGB", (8, 8), (row, 0, 0)) for row in range(rows)], "text": ["a"] * rows}
    return Dataset.from_dict(columns).cast_column("picture", ImageFeature())


def parquet(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.to_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_csv_names_what_is_missing(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeffid,text\r\n1,"a, b"\r\n2,\r\n'.encode())
    assert read_csv(path, ("id", "text")) == [{"id": "1", "text": "a, b"}, {"id": "2", "text": ""}]
    with pytest.raises(ValueError, match=r"rows\.csv has no column caption; it has \['id', 'text'\]"):
        read_csv(path, ("caption",))
    path.write_text("id,text\n1,a\n2\n")
    with pytest.raises(ValueError, match=r"rows\.csv, row 3: no value for text"):
        read_csv(path, ("id", "text"))
    path.write_text("")
    with pytest.raises(ValueError, match="has no column id"):
        read_csv(path, ("id",))


def test_values_of_an_object():
    assert take({"a": 1, "b": 2}, ("b", "a"), "here") == [2, 1]
    with pytest.raises(ValueError, match="here: no c; it has a"):
        take({"a": 1}, ("a", "c"), "here")
    with pytest.raises(ValueError, match="here: a JSON object is expected, not list"):
        take([], ("a",), "here")


def test_files_and_folders(tmp_path):
    (tmp_path / "one.parquet").write_bytes(parquet(table()))
    loaded = load_table(tmp_path / "one.parquet", columns=("text",))
    assert len(loaded) == 3
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert load_table(tmp_path / "rows.jsonl")["text"][:] == ["a", "b"]
    (tmp_path / "rows.csv").write_text("text\na\nb\n")
    assert load_table(tmp_path / "rows.csv")["text"][:] == ["a", "b"]
    (tmp_path / "folder" / "data").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / "folder" / "data" / f"{split}-0.parquet").write_bytes(parquet(table(2 if split == "test" else 4)))
    assert len(load_table(tmp_path / "folder", "test")) == 2
    with pytest.raises(ValueError, match="folder has no split 'validation'; it has train, test"):
        load_table(tmp_path / "folder", "validation")
    with pytest.raises(ValueError, match="say which split: it has train, test"):
        load_table(tmp_path / "folder")
    with pytest.raises(ValueError, match=r"has no column caption; it has picture, text"):
        load_table(tmp_path / "folder", "test", columns=("text", "caption"))


def test_pictures_with_metadata(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(folder / name)
    rows = [{"file_name": name, "caption": f"of {name}"} for name in ("a.png", "b.png")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load_table(folder, columns=("image", "caption"))
    assert loaded["caption"][:] == ["of a.png", "of b.png"]
    assert loaded[0]["image"]["path"].endswith("a.png")  # undecoded


def write_paths(folder: Path, columns: dict[str, list]) -> str:
    """A table as `datasets` saves one whose images were given by path: with the paths, wherever they lead."""
    table = Dataset.from_dict(columns)
    for name in columns:
        if name.startswith("image"):
            table = table.cast_column(name, ImageFeature())
    table.to_parquet(folder / "test.parquet")
    return str(folder)


def test_paths_that_a_table_types_as_images_may_lead_into_the_folder_of_images(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red").save(elsewhere / f"{name}.png")
    one, other = (str(elsewhere / f"{name}.png") for name in ("a", "b"))
    captions = {"caption": ["a dog", "a cat"], "wrong": ["a cow", "a pig"], "label": [0, 1]}
    data = write_paths(tmp_path / "rows", {"image": [one, other], **captions})
    pairs = {"image_0": [one], "image_1": [other], "caption_0": ["a dog"], "caption_1": ["a cat"]}
    kinds = {"images": [one], "caption": ["a dog"], "negative_caption": ["a cat"], "Negative_type": ["swap_obj"]}
    images = str(elsewhere)
    found = [
        *Winoground(data=write_paths(tmp_path / "pairs", pairs), images=images).items()[0].images,
        *SugarCrepe(annotations=write_paths(tmp_path / "kinds", kinds), images=images).items()[0].images,
        *Captions(data=data, images=images, caption_columns=["caption", "wrong"]).items()[0].images,
        read_captioned(data, images, "test")[0].image,
        read_labelled(data, "test", classnames=["dog", "cat"], images=images).images[0],
    ]
    assert [picture.load().size for picture in found] == [(8, 8)] * 6
    with pytest.raises(BrokenValue, match=r"outside the dataset's folder: .*give its folder as `images`"):
        read_labelled(data, "test", classnames=["dog", "cat"]).images[0].load()
    with pytest.raises(FileNotFoundError, match=r"folder of images .*nowhere does not exist"):
        load_table(data, "test", images=tmp_path / "nowhere")


def test_what_save_to_disk_wrote(tmp_path):
    DatasetDict({"test": table(), "train": table(2)}).save_to_disk(tmp_path / "several")
    assert len(load_table(tmp_path / "several", "test")) == 3
    table().save_to_disk(tmp_path / "one")
    assert len(load_table(tmp_path / "one")) == 3


def test_what_is_not_there_or_no_table(tmp_path):
    for absent in (tmp_path / "absent", "./absent", "some/deep/path", tmp_path / "absent.parquet"):
        with pytest.raises(FileNotFoundError, match=r"absent|some/deep/path"):
            load_table(absent)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match=r"x\.txt is not a file of a known kind: \.parquet, "):
        load_table(tmp_path / "x.txt")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.parquet cannot be read: "):
        load_table(tmp_path / "junk.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        load_table(tmp_path / "empty")
    (tmp_path / "none.parquet").write_bytes(parquet(table(1).select([])))
    with pytest.raises(ValueError, match="has no rows"):
        load_table(tmp_path / "none.parquet")


@pytest.mark.parametrize("split", [None, "test"])
@pytest.mark.parametrize("name", ["my_data/nope.csv", "my_data/nope.jsonl", "nope.tsv", "my_data/a/nope", "nope.txt"])
def test_a_file_that_is_not_there_is_not_asked_for(monkeypatch, name, split):
    monkeypatch.setattr("hf_tripletclip.data.raw.load_dataset_builder", None)
    monkeypatch.setattr("hf_tripletclip.evaluation.readers.tables.load_dataset_builder", None)
    monkeypatch.setattr("hf_tripletclip.evaluation.readers.clip_benchmark.HfApi", None)
    monkeypatch.setattr("hf_tripletclip.evaluation.benchmarks.mmvp.snapshot_download", None)
    reads = [load_table, find_tar_set, lambda place, _: build_benchmark("mmvp", data={EVERY: place}).items()]
    for read in reads:
        with pytest.raises(FileNotFoundError, match=f"The dataset path {name} does not exist"):
            read(name, split)


def test_one_split_of_a_relative_folder(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"{split}.csv").write_text(f"text\na {split}\n")
    monkeypatch.chdir(tmp_path)
    assert load_table("set", "test")["text"][:] == ["a test"]
    monkeypatch.chdir(tmp_path / "set")
    assert load_table(".", "test")["text"][:] == ["a test"]


def test_where_images_may_be(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "pictures" / "a.JPG").write_bytes(b"")
    (tmp_path / "rows.json").write_text("{}")
    for place in (tmp_path, tmp_path / "rows.json"):
        assert image_folders(place, None) == [tmp_path, tmp_path / "pictures"]
    assert image_folders(tmp_path, tmp_path / "texts") == [tmp_path / "texts"]
    with pytest.raises(FileNotFoundError, match=r"the image folder .*absent does not exist"):
        image_folders(tmp_path, tmp_path / "absent")


# ---- The Hub: in processes of their own, see `tests/loopback_hub.py` ----

LOAD = """
from hf_tripletclip.evaluation.readers.tables import load_table
for source, options in {sources!r}:
    try:
        loaded = load_table(source, **options)
        print("rows", len(loaded), loaded[0]["picture"]["bytes"][:4])
    except Exception as error:
        print(type(error).__name__, error)
"""


def load(hub: LoopbackHub | None, home, *sources, **env) -> tuple[list[str], str]:
    done = run_python(LOAD.format(sources=sources), hub, home, **env)
    return done.stdout.splitlines(), done.stderr


def test_datasets_of_the_hub(hub, tmp_path):
    hub.add("dataset", "someone/set", {"README.md": b"", "data/test-0.parquet": parquet(table(4))})
    hub.add("dataset", "someone/set", {"data/test-0.parquet": parquet(table(2))}, revision="old")
    lines, noise = load(
        hub,
        tmp_path,
        ("someone/set", {}),
        ("someone/set", {"split": "test", "revision": "old"}),
        ("someone/set", {"split": "train"}),
        ("someone/absent", {}),
        ("someone/set", {"revision": "absent"}),
    )
    assert lines[0].startswith("rows 4 b'\\x89PNG")
    assert lines[1].startswith("rows 2 ")
    assert lines[2] == "ValueError someone/set has no split 'train'; it has test"
    assert lines[3].startswith("FileNotFoundError 'someone/absent' is neither a path that exists nor a dataset")
    assert lines[4].startswith("FileNotFoundError 'someone/set'")
    assert "Generating" not in noise
    assert "Traceback" not in noise


def test_without_a_network(tmp_path):
    (line,), _ = load(None, tmp_path, ("someone/set", {}), HF_HUB_OFFLINE="1")
    assert line.startswith(
        "FileNotFoundError 'someone/set' is neither a path that exists nor a dataset of the Hub that "
    )


def gate(hub: LoopbackHub, status: int, free: tuple[str, ...]) -> None:
    """Answer as the Hub does where conditions must be accepted: all files but these are refused."""

    class Gated(hub.server.RequestHandlerClass):
        def file(self, repo, revision, path):
            if path not in free:
                raise HubError(status, "GatedRepo", "Access to dataset someone/gated is restricted.")
            return super().file(repo, revision, path)

    hub.server.RequestHandlerClass = Gated


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("free", [(), ("README.md",)], ids=["all files", "all but the card"])
def test_a_gated_dataset_says_what_to_do(hub, tmp_path, status, free):
    hub.add("dataset", "someone/gated", {"README.md": b"", "data/test-0.parquet": parquet(table())})
    gate(hub, status, free)
    (line,), _ = load(hub, tmp_path, ("someone/gated", {"split": "test"}))
    assert line == (
        "PermissionError someone/gated is a gated dataset: open https://huggingface.co/datasets/someone/gated, accept "
        "its conditions, and log in with `hf auth login` (or set HF_TOKEN)."
    )
