# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image, IterableDataset, Value
from PIL import Image as PILImage

from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor, load_tripletdata
from hf_tripletclip.data.loading import undecoded
from tests.loopback_hub import run_python


def png(colour: Any) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, rows: int, first: int = 0, **changes: dict[int, bytes | None]) -> list[tarfile.TarInfo]:
    """Write a shard in the published layout. `changes` replaces members by row; `None` leaves one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for index in range(rows):
            members: dict[str, bytes | None] = {
                "image": png((index, 0, 0)),
                "caption": f"a red cat {first + index}".encode(),
                "neg_image": png((0, index, 0)),
                "neg_caption": f"a blue cat {first + index}".encode(),
            }
            for extension, content in members.items():
                content = changes.get(extension, {}).get(index, content)
                if content is not None:
                    info = tarfile.TarInfo(f"{first + index:06d}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    with tarfile.open(path) as archive:
        return archive.getmembers()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def processor():
    return build_processor(["a red cat"], image_size=8)


def broken(path: Path, processor: Any, streaming: bool, report: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The keys of the rows in batches, and the reports."""
    data = undecoded(load_tripletdata(path, split="train", streaming=streaming))
    collator = TripletCollator(processor, broken_rows=BrokenRows(report))
    _, usable = collator.collate(list(data))
    return [row["__key__"] for row in usable], list(collator.broken_rows)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["file", "folder", "pattern", "splits"])
def test_types_and_rows(tmp_path, streaming, how):
    folder = tmp_path / "set"
    for shard in range(2):
        write_tar(folder / ("train" if how == "splits" else "") / f"shard-{shard}.tar", 2, first=2 * shard)
    if how == "splits":
        write_tar(folder / "test" / "shard-0.tar", 1)
    path = {"file": folder / "shard-0.tar", "pattern": folder / "shard-*.tar"}.get(how, folder)
    data = load_tripletdata(path, streaming=streaming)
    assert set(data) == ({"train", "test"} if how == "splits" else {"train"})
    data = data["train"]
    assert isinstance(data, IterableDataset if streaming else Dataset)
    for name in ("image", "neg_image"):
        assert isinstance(data.features[name], Image)
    for name in ("caption", "neg_caption", "__key__", "__url__", "__error__"):
        assert data.features[name] == Value("string")
    rows = list(data)
    assert [row["__key__"] for row in rows] == [f"{index:06d}" for index in range(2 if how == "file" else 4)]
    assert [row["__error__"] for row in rows] == [None] * len(rows)
    assert rows[1]["image"].getpixel((0, 0)) == (1, 0, 0)
    assert rows[1]["neg_caption"] == "a blue cat 1"
    assert rows[0]["__url__"].endswith("shard-0.tar")


@pytest.mark.parametrize("streaming", [False, True])
def test_everything_that_breaks_a_row_is_named(tmp_path, processor, streaming):
    bomb = io.BytesIO()
    PILImage.new("1", (20000, 20000)).save(bomb, format="PNG")
    jpeg = io.BytesIO()
    PILImage.effect_noise((64, 64), 90).save(jpeg, format="JPEG")
    write_tar(
        tmp_path / "s.tar",
        8,
        image={0: jpeg.getvalue()[:-300], 1: bomb.getvalue()},
        caption={2: b"\xff\xfe", 3: b" ", 7: None},
        neg_image={4: None},
        neg_caption={5: None},
    )
    usable, reports = broken(tmp_path / "s.tar", processor, streaming, tmp_path / "broken.jsonl")
    assert usable == ["000006"]
    assert [(report["key"], report["reason"].partition(":")[0], report["column"]) for report in reports] == [
        ("000000", "unreadable image", "image"),
        ("000001", "image too large", "image"),
        ("000002", "caption is not UTF-8", "caption"),
        ("000003", "empty caption", "caption"),
        ("000004", "missing image", "neg_image"),
        ("000005", "missing caption", "neg_caption"),
        ("000007", "missing caption", "caption"),
    ]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("place", "kept"),
    [
        (("header", 9), 2),  # behind the first member of the third sample
        (("inside header", 9), 2),
        (("contents", 10), 2),
        (("header", 8), 2),  # between two samples, with nothing that `tarfile` would notice
        (("contents", 3), 0),
    ],
)
def test_a_tar_that_was_cut_keeps_the_rows_before(tmp_path, processor, streaming, place, kept):
    headers = write_tar(tmp_path / "set" / "a.tar", 4)
    write_tar(tmp_path / "set" / "b.tar", 2, first=100)
    what, member = place
    end = {
        "header": headers[member].offset,
        "inside header": headers[member].offset + 200,
        "contents": headers[member].offset_data + 5,
    }[what]
    content = (tmp_path / "set" / "a.tar").read_bytes()
    (tmp_path / "set" / "a.tar").write_bytes(content[:end])
    usable, (report,) = broken(tmp_path / "set", processor, streaming, tmp_path / "broken.jsonl")
    assert usable == [*(f"{index:06d}" for index in range(kept)), "000100", "000101"]
    assert report["key"] == str(tmp_path / "set" / "a.tar")
    assert report["reason"].startswith("tar cut short: ")
    assert f"{kept} samples kept" in report["reason"]
    assert "column" not in report


@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_are_no_tars_or_damaged(tmp_path, processor, streaming):
    headers = write_tar(tmp_path / "set" / "a.tar", 3)
    content = bytearray((tmp_path / "set" / "a.tar").read_bytes())
    content[headers[8].offset + 3] ^= 1
    (tmp_path / "set" / "a.tar").write_bytes(content)
    (tmp_path / "set" / "b.tar").write_bytes(b"")
    (tmp_path / "set" / "c.tar").write_bytes(b"no tar at all" * 100)
    usable, reports = broken(tmp_path / "set", processor, streaming, tmp_path / "broken.jsonl")
    assert usable == ["000000", "000001"]
    assert [(Path(report["key"]).name, report["reason"].partition(":")[0]) for report in reports] == [
        ("a.tar", "damaged tar"),
        ("b.tar", "tar cut short"),
        ("c.tar", "damaged tar"),
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_compressed_tars_that_were_cut(tmp_path, processor, streaming):
    write_tar(tmp_path / "whole.tar", 40)
    packed = gzip.compress((tmp_path / "whole.tar").read_bytes())
    (tmp_path / "packed.tar").write_bytes(packed[: len(packed) // 2])
    usable, (report,) = broken(tmp_path / "packed.tar", processor, streaming, tmp_path / "broken.jsonl")
    assert 5 < len(usable) < 40
    assert report["reason"].startswith("tar cut short")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_member_that_comes_twice(tmp_path, processor, streaming):
    write_tar(tmp_path / "s.tar", 2)
    with tarfile.open(tmp_path / "s.tar", "a") as archive:
        info = tarfile.TarInfo("000001.image")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo(".hidden.image")
        archive.addfile(info)
    usable, reports = broken(tmp_path / "s.tar", processor, streaming, tmp_path / "broken.jsonl")
    assert usable == ["000000"]
    assert reports == [{"key": "000001", "reason": "member is there twice", "column": "image"}]


def test_a_changed_tar_is_read_again(tmp_path):
    write_tar(tmp_path / "s.tar", 2)
    assert len(load_tripletdata(tmp_path / "s.tar", split="train")) == 2
    write_tar(tmp_path / "s.tar", 3)
    assert len(load_tripletdata(tmp_path / "s.tar", split="train")) == 3


def test_parts_of_splits(tmp_path):
    for split, rows in (("train", 4), ("test", 2)):
        write_tar(tmp_path / "set" / split / "s.tar", rows)
    assert len(load_tripletdata(tmp_path / "set", split="train[:50%]+test")) == 4
    assert [row["__key__"] for row in load_tripletdata(tmp_path / "set", split="train[1:3]")] == ["000001", "000002"]
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"set has no split 'dev'; it has train, test"):
            load_tripletdata(tmp_path / "set", split="dev", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_other_names_of_members_are_mapped(tmp_path, streaming):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        members = {"jpg": png("red"), "txt": b"a cat", "image": b"not this one", "json": b"{}", "npy": b"\x93"}
        members["depth.png"] = png("blue")
        for extension, content in members.items():
            info = tarfile.TarInfo(f"a.{extension}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    columns = {"image": "jpg", "caption": "txt"}
    data = load_tripletdata(tmp_path / "s.tar", split="train", streaming=streaming, columns=columns)
    (row,) = data
    assert row["image"].getpixel((0, 0)) == (255, 0, 0)
    assert (row["caption"], row["json"], row["npy"]) == ("a cat", "{}", b"\x93")
    assert row["depth.png"].getpixel((0, 0)) == (0, 0, 255)  # a picture, though none of ours
    with pytest.raises(ValueError, match=r"names \['png'\], which it does not have; it has \['image', 'jpg'"):
        load_tripletdata(tmp_path / "s.tar", split="train", streaming=streaming, columns={"image": "png"})


@pytest.mark.parametrize("streaming", [False, True])
def test_no_readable_sample_at_all(tmp_path, streaming):
    (tmp_path / "s.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no rows: none of its 1 tars has a readable sample"):
        load_tripletdata(tmp_path / "s.tar", split="train", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_from_the_hub(tmp_path, hub, streaming):
    hub.token = "hf_secret"
    headers = write_tar(tmp_path / "set" / "shard-0.tar", 3)
    write_tar(tmp_path / "set" / "shard-1.tar", 2, first=10)
    content = (tmp_path / "set" / "shard-0.tar").read_bytes()
    (tmp_path / "set" / "shard-0.tar").write_bytes(content[: headers[9].offset_data + 5])
    hub.add("dataset", "someone/triplets", tmp_path / "set")
    code = f"""
from hf_tripletclip.data import load_tripletdata
data = load_tripletdata("someone/triplets", split="train", streaming={streaming})
assert [type(data.features[name]).__name__ for name in ("image", "caption")] == ["Image", "Value"]
for row in data:
    print(row["__key__"], row["caption"], row["image"] and row["image"].size, row["__error__"])
"""
    lines = run_python(code, hub, tmp_path / "home", HF_TOKEN="hf_secret").stdout.splitlines()
    assert [line for line in lines if "(8, 8)" in line] == [
        f"{index:06d} a red cat {index} (8, 8) None" for index in (0, 1, 10, 11)
    ]
    (cut,) = (line for line in lines if "tar cut short" in line)
    assert cut.split()[0].endswith("shard-0.tar")
    assert cut.startswith("hf://datasets/someone/triplets@")


def test_several_processes_make_the_cache(tmp_path):
    for shard in range(3):
        write_tar(tmp_path / "set" / f"{shard}.tar", 2, first=10 * shard)
    data = load_tripletdata(tmp_path / "set", split="train", num_proc=2, cache_dir=str(tmp_path / "elsewhere"))
    assert sorted(data["__key__"]) == ["000000", "000001", "000010", "000011", "000020", "000021"]
    assert any((tmp_path / "elsewhere").rglob("*.arrow"))
    assert not any((tmp_path / "set").rglob("*.arrow"))
