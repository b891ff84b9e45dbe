# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, List, Value
from PIL import Image as PILImage

from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor, check_columns, load_tripletdata
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import COLUMNS, IMAGE_COLUMNS, TEXT_COLUMNS
from hf_tripletclip.roles import ROLES, TRIPLET


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def table(rows: int = 4, **renamed: str) -> Dataset:
    columns = {
        "image": [{"bytes": png("red"), "path": None}] * rows,
        "caption": [f"a red cat {index}" for index in range(rows)],
        "neg_image": [{"bytes": png("blue"), "path": None}] * rows,
        "neg_caption": [f"a blue cat {index}" for index in range(rows)],
    }
    data = Dataset.from_dict(columns).cast_column("image", Image()).cast_column("neg_image", Image())
    return data.rename_columns(renamed) if renamed else data


def check(data: Dataset | IterableDataset, rows: int = 4) -> None:
    listed = list(data)
    assert len(listed) == rows
    for name in ("image", "neg_image"):
        assert isinstance(data.features[name], Image)
        assert isinstance(listed[0][name], PILImage.Image)
    for name in ("caption", "neg_caption"):
        assert data.features[name] == Value("string")
    assert listed[1]["caption"] == "a red cat 1"
    assert listed[1]["neg_image"].getpixel((0, 0)) == (0, 0, 255)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_columns_are_those_of_the_objectives():
    assert tuple(ROLES[role].column for role in TRIPLET) == COLUMNS
    assert {role.column for role in ROLES.values()} == {*IMAGE_COLUMNS, *TEXT_COLUMNS}


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_file_and_folder(tmp_path, streaming):
    (tmp_path / "set").mkdir()
    table().to_parquet(tmp_path / "set" / "train-0.parquet")
    check(load_tripletdata(tmp_path / "set", split="train", streaming=streaming))
    check(load_tripletdata(tmp_path / "set" / "train-0.parquet", streaming=streaming)["train"])


def test_saved_to_disk(tmp_path):
    DatasetDict({"train": table(), "test": table(2)}).save_to_disk(tmp_path / "set")
    loaded = load_tripletdata(tmp_path / "set")
    check(loaded["train"])
    assert len(load_tripletdata(tmp_path / "set", split="test")) == 2
    check(load_tripletdata(tmp_path / "set", split="train", streaming=True))
    assert isinstance(load_tripletdata(tmp_path / "set", streaming=True)["test"], IterableDataset)


def write_tar(path: Path, rows: int, broken: int | None = None, broken_image: int | None = None) -> None:
    with tarfile.open(path, "w") as archive:
        for index in range(rows):
            members = {
                "image": b"junk" if index == broken_image else png("red"),
                "caption": f"a red cat {index}".encode(),
                "neg_image": png("blue"),
                "neg_caption": b"\xff\xfe" if index == broken else f"a blue cat {index}".encode(),
            }
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{index:06d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("streaming", [False, True])
def test_published_tars(tmp_path, streaming):
    (tmp_path / "set").mkdir()
    write_tar(tmp_path / "set" / "shard-0.tar", 4, broken=2)
    data = load_tripletdata(tmp_path / "set", split="train", streaming=streaming)
    check(data)
    # Invalid UTF-8 becomes a missing caption, which the collator reports; the other rows are kept.
    assert [row["neg_caption"] for row in data] == ["a blue cat 0", "a blue cat 1", None, "a blue cat 3"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", ["tar", "typed parquet", "renamed parquet", "saved"])
def test_broken_images_reach_the_collator_which_reports_them(tmp_path, streaming, layout):
    path, columns = tmp_path / "set", None
    images = [{"bytes": png("red") if index != 1 else b"junk", "path": None} for index in range(4)]
    data = table().remove_columns("image").add_column("image", images).add_column("id", list("0123"))
    data = data.cast_column("image", Image())
    if layout == "tar":
        write_tar(path := tmp_path / "set.tar", 4, broken_image=1)
    elif layout == "typed parquet":
        data.to_parquet(path := tmp_path / "set.parquet")
    elif layout == "renamed parquet":
        data.rename_column("image", "photo").to_parquet(path := tmp_path / "set.parquet")
        columns = {"image": "photo"}
    else:
        DatasetDict({"train": data}).save_to_disk(path)
    loaded = load_tripletdata(path, split="train", streaming=streaming, columns=columns)
    assert isinstance(next(iter(loaded))["image"], PILImage.Image)
    rows = list(undecoded(loaded))  # a dataset that decodes would stop here
    processor = build_processor(["a red cat"], image_size=8)
    collator = TripletCollator(processor, broken_rows=BrokenRows(tmp_path / "broken.jsonl"))
    assert len(collator(rows)["pixel_values"]) == 3
    assert collator.broken_rows.counts() == {"unreadable image in image": 1}
    assert next(iter(collator.broken_rows))["key"] in ("1", "000001")


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_without_our_types(tmp_path, streaming):
    columns = {
        "image": pa.array([png("red")] * 4, pa.binary()),
        "neg_image": pa.array([{"bytes": png("blue")}] * 4),
        "caption": pa.array([f"a red cat {index}".encode() for index in range(3)] + [b"\xff"], pa.binary()),
        "neg_caption": pa.array(["a blue cat"] * 4, pa.large_string()),
    }
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    data = load_tripletdata(tmp_path / "set.parquet", split="train", streaming=streaming)
    check(data)
    assert [row["caption"] for row in data][2:] == ["a red cat 2", None]
    pq.write_table(pa.table({"image": [1, 2], "caption": ["a", "b"]}), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match="column 'image' holds int64, not images"):
        load_tripletdata(tmp_path / "set.parquet", split="train", streaming=streaming)


def test_decoding_captions_does_not_copy_the_images(tmp_path):
    path, cache = tmp_path / "set.parquet", tmp_path / "cache"
    buffer = io.BytesIO()
    PILImage.effect_noise((256, 256), 90).save(buffer, format="PNG")
    pq.write_table(pa.table({"image": [buffer.getvalue()] * 20, "caption": [b"a cat"] * 20}), path)
    data = load_tripletdata(path, split="train", cache_dir=str(cache))
    assert data[0]["caption"] == "a cat"
    assert data.column_names == ["image", "caption"]
    written = sum(file.stat().st_size for file in cache.rglob("*.arrow"))
    assert written < 1.5 * 20 * len(buffer.getvalue())  # one copy, that of `load_dataset`


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("metadata", ["jsonl", "csv"])
def test_image_folder_with_metadata(tmp_path, streaming, metadata):
    folder = tmp_path / "set"
    folder.mkdir()
    lines = []
    for index in range(4):
        for side, colour in (("image", "red"), ("neg_image", "blue")):
            (folder / f"{side}-{index}.png").write_bytes(png(colour))
        names = {"image_file_name": f"image-{index}.png", "neg_image_file_name": f"neg_image-{index}.png"}
        lines.append(json.dumps({**names, "caption": f"a red cat {index}", "neg_caption": f"a blue cat {index}"}))
    if metadata == "jsonl":
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    else:
        rows = [json.loads(line) for line in lines]
        (folder / "metadata.csv").write_text(
            "\n".join(",".join(row) for row in [list(rows[0]), *map(dict.values, rows)])
        )
    check(load_tripletdata(folder, split="train", streaming=streaming))


def test_other_column_names_are_mapped(tmp_path):
    path = tmp_path / "train.parquet"
    table(image="picture", neg_caption="foil").to_parquet(path)
    check(load_tripletdata(path, split="train", columns={"image": "picture", "neg_caption": "foil"}))
    # A column of our name may hold something else, or the two may have changed places.
    table(image="neg_image", neg_image="image").to_parquet(path)
    check(load_tripletdata(path, split="train", columns={"image": "neg_image", "neg_image": "image"}))


def test_errors_list_the_columns_that_exist(tmp_path):
    path = tmp_path / "train.parquet"
    table(neg_caption="foil").to_parquet(path)
    with pytest.raises(
        ValueError, match=r"lacks 'neg_caption'; it has 'image', 'caption', 'neg_image', 'foil'.*columns"
    ):
        load_tripletdata(path, split="train", required_columns=("image", "neg_caption"))
    with pytest.raises(ValueError, match=r"names \['fool'\]"):
        load_tripletdata(path, split="train", columns={"neg_caption": "fool"})
    with pytest.raises(FileNotFoundError, match="/no/such/folder does not exist"):
        load_tripletdata("/no/such/folder")
    with pytest.raises(
        FileNotFoundError, match=r"nobody/nothing.*neither a path that exists nor a dataset of the Hub"
    ):
        load_tripletdata("nobody/nothing")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"notes\.txt is not a file of a known kind: \.parquet"):
        load_tripletdata(tmp_path / "notes.txt")
    features = Features({"image": Image(), "caption": Value("string")})
    Dataset.from_dict({"image": [], "caption": []}, features=features).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="no rows"):
        load_tripletdata(tmp_path / "empty.parquet", split="train")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match=r"bare\.parquet cannot be read: one of its files has no rows$"):
        load_tripletdata(tmp_path / "bare.parquet", split="train")
    with pytest.raises(FileNotFoundError, match=r"dataset path data/train\.parquet does not exist"):
        load_tripletdata("data/train.parquet")  # not taken for the id of a Hub dataset
    with pytest.raises(FileNotFoundError, match=r"no_such_folder/ does not exist"):
        load_tripletdata("no_such_folder/")
    with pytest.raises(FileNotFoundError, match="no_such_folder does not exist"):
        load_tripletdata("~/no_such_folder")


def test_undecoded_images_are_bytes(tmp_path):
    row = undecoded(table())[0]
    assert row["image"]["bytes"] == png("red")
    row = undecoded(table(), ("neg_image",))[0]
    assert isinstance(row["image"], PILImage.Image)
    assert row["neg_image"]["bytes"] == png("blue")


def test_check_columns_of_any_dataset():
    check_columns(table(), COLUMNS)
    check_columns([{"image": 1}], ("image",))
    with pytest.raises(ValueError, match="lacks 'caption'"):
        check_columns([{"image": 1}], ("image", "caption"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_single_tar(tmp_path, streaming):
    write_tar(tmp_path / "shard.tar", 4, broken=0)
    data = load_tripletdata(tmp_path / "shard.tar", split="train", streaming=streaming, required_columns=COLUMNS)
    check(data)
    assert [row["neg_caption"] for row in data] == [None, "a blue cat 1", "a blue cat 2", "a blue cat 3"]
    assert [row["__key__"] for row in data] == [f"{index:06d}" for index in range(4)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_row_of_a_tar_is_reported_by_its_key(tmp_path, streaming):
    write_tar(tmp_path / "shard.tar", 4, broken=2)
    data = undecoded(load_tripletdata(tmp_path / "shard.tar", split="train", streaming=streaming))
    processor = build_processor(["a red cat"], image_size=16)
    collator = TripletCollator(processor, broken_rows=BrokenRows(tmp_path / "broken.jsonl"))
    assert len(collator(list(data))["negative_input_ids"]) == 3
    assert list(collator.broken_rows) == [{"key": "000002", "column": "neg_caption", "reason": "caption is not UTF-8"}]


@pytest.mark.parametrize("streaming", [False, True])
def test_names_may_change_places(tmp_path, streaming):
    path = tmp_path / "train.parquet"
    table(caption="neg_caption", neg_caption="caption", image="neg_image", neg_image="image").to_parquet(path)
    swap = {"caption": "neg_caption", "neg_caption": "caption", "image": "neg_image", "neg_image": "image"}
    check(load_tripletdata(path, split="train", streaming=streaming, columns=swap))
    one_way = load_tripletdata(path, split="train", streaming=streaming, columns={"caption": "neg_caption"})
    assert sorted(one_way.column_names) == ["caption", "image", "neg_image"]  # our name belongs to one column only
    assert next(iter(one_way))["caption"] == "a red cat 0"


@pytest.mark.parametrize("streaming", [False, True])
def test_names_that_are_the_same_already_and_other_columns(tmp_path, streaming):
    path = tmp_path / "train.parquet"
    table(2).add_column("kind", ["swap_obj", "add_att"]).to_parquet(path)
    data = load_tripletdata(
        path, split="train", streaming=streaming, columns={"caption": "caption", "negative_type": "kind"}
    )
    assert [row["negative_type"] for row in data] == ["swap_obj", "add_att"]
    check(data, rows=2)


def test_splits_of_what_was_saved_to_disk(tmp_path):
    DatasetDict({"train": table(), "test": table(2)}).save_to_disk(tmp_path / "dict")
    with pytest.raises(ValueError, match=r"dict has no split 'dev'; it has train, test"):
        load_tripletdata(tmp_path / "dict", split="dev")
    table().save_to_disk(tmp_path / "single")
    check(load_tripletdata(tmp_path / "single")["train"])
    check(load_tripletdata(tmp_path / "single", split="train"))  # as a file without splits is called
    with pytest.raises(ValueError, match=r"single has no split 'test'; it has train"):
        load_tripletdata(tmp_path / "single", split="test")


@pytest.mark.parametrize("streaming", [False, True])
def test_errors_name_the_dataset_and_the_split(tmp_path, streaming):
    path = tmp_path / "data.parquet"
    table(neg_caption="foil").to_parquet(path)
    with pytest.raises(ValueError, match=r"data\.parquet \(split 'train'\): it lacks 'neg_caption'; it has 'image'"):
        load_tripletdata(path, streaming=streaming, required_columns=COLUMNS)
    with pytest.raises(ValueError, match=r"it lacks 'negative_type'; it has 'image'"):
        load_tripletdata(path, split="train", streaming=streaming, required_columns=("negative_type",))
    with pytest.raises(ValueError, match=r"`columns` names \['nope'\], which it does not have; it has \['image'"):
        load_tripletdata(path, split="train", streaming=streaming, columns={"neg_caption": "nope"})
    with pytest.raises(ValueError, match="nope"):
        load_tripletdata(path, split="nope", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["set", "set/", "./set", ".", "../in/set", "my [1]*set"])
@pytest.mark.parametrize("metadata", [False, True])
def test_a_relative_folder(tmp_path, monkeypatch, name, metadata, streaming):
    folder = tmp_path / "in" / ("set" if name == "." else name)
    for split in ("train", "test"):
        place = folder / split if metadata else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "red.png").write_bytes(png("red"))
        file = place / ("metadata.csv" if metadata else f"{split}.csv")
        file.write_text(f"{'file_name' if metadata else 'image'},caption\nred.png,a {split}\n")
    monkeypatch.chdir(folder if name == "." else tmp_path / "in")
    data = load_tripletdata(name, streaming=streaming)
    for split in ("train", "test"):
        (row,) = data[split]
        assert (row["caption"], row["image"].size) == (f"a {split}", (8, 8))


def test_a_pattern_in_the_path_of_a_folder_with_a_card(tmp_path):
    folder = tmp_path / "set[1]"
    folder.mkdir()
    (folder / "a.csv").write_text("caption\na cat\n")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.csv\n---\n")
    with pytest.raises(ValueError, match=r"set\[1\] cannot be read: .* for a pattern. Rename the folder\."):
        load_tripletdata(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_pattern_that_matches_no_file(tmp_path, streaming):
    with pytest.raises(FileNotFoundError, match=r"No file matches .*/no\*\.csv"):
        load_tripletdata(tmp_path / "no*.csv", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "folder", "metadata"])
@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_separators_of_csv_files(tmp_path, caplog, sign, name, streaming):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "red.png").write_bytes(png("red"))
    captions = [f"a cat{other} and so on" for other in ",;"]
    image = "file_name" if name == "metadata" else "image"
    lines = [[image, "caption", '"neg, caption"'], *(["red.png", f'"{text}"', "5"] for text in captions)]
    file = {"folder": "train.csv", "metadata": "metadata.csv"}.get(name, name)
    (folder / file).write_text("\ufeff" + "\n".join(map(sign.join, lines)) + "\n", encoding="utf-8")
    data = load_tripletdata(folder / name if name == file else folder, split="train", streaming=streaming)
    rows = list(data)
    assert [row["caption"] for row in rows] == captions
    assert {row["image"].size for row in rows} == {(8, 8)}
    assert set(rows[0]) == {"image", "caption", "neg, caption"}
    assert "in no metadata" not in caplog.text


def test_separators_that_differ_or_are_given(tmp_path):
    (tmp_path / "train.csv").write_text("caption;more\na, b;c\n")
    (tmp_path / "test.csv").write_text("caption,more\na,c\n")
    with pytest.raises(ValueError, match=r"train\.csv separates its columns by ';', but .*test\.csv by ',': use one"):
        load_tripletdata(tmp_path)
    row = load_tripletdata(tmp_path / "train.csv", split="train", sep="|")[0]
    assert row == {"caption;more": "a, b;c"}
    (tmp_path / "bare.csv").write_text("caption;more\na;b;c\n")
    with pytest.raises(ValueError, match=r"more fields than its header has names\. Put text that holds ';' in quotes"):
        load_tripletdata(tmp_path / "bare.csv")
    (tmp_path / "t.tsv").write_text("caption|more\na, b|c\n")
    assert load_tripletdata(tmp_path / "t.tsv", split="train", sep="|")[0] == {"caption": "a, b", "more": "c"}
    (tmp_path / "one.csv").write_text("caption\na cat\n")
    assert load_tripletdata(tmp_path / "one.csv", split="train")[0] == {"caption": "a cat"}


@pytest.mark.parametrize("path", ["/no/such.parquet", "./no-such-folder", "../no/such", "no/such/folder", "no/x.CSV"])
def test_a_path_that_does_not_exist(path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_tripletdata(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_tripletdata(Path(path).absolute(), streaming=True)


def test_lines_of_json_with_paths(tmp_path):
    (tmp_path / "red.png").write_bytes(png("red"))
    row = {"image": str(tmp_path / "red.png"), "caption": "a cat"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (loaded,) = load_tripletdata(tmp_path / "rows.jsonl", split="train")
    assert loaded["caption"] == "a cat"
    assert loaded["image"].getpixel((0, 0)) == (255, 0, 0)


def test_an_unreadable_image_does_not_stop_loading(tmp_path):
    rows = [{"image": {"bytes": content, "path": None}, "caption": "a cat"} for content in (png("red"), b"no image")]
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    data = undecoded(load_tripletdata(tmp_path / "train.parquet", split="train"))
    assert [row["image"]["bytes"] for row in data] == [png("red"), b"no image"]


@pytest.mark.parametrize("streaming", [False, True])
def test_undecoded_leaves_the_rest_alone(tmp_path, streaming):
    table().to_parquet(tmp_path / "train.parquet")
    data = load_tripletdata(tmp_path / "train.parquet", split="train", streaming=streaming)
    raw = undecoded(data)
    row = next(iter(raw))
    assert (row["image"]["bytes"], row["neg_image"]["bytes"]) == (png("red"), png("blue"))
    assert (row["caption"], row["neg_caption"]) == ("a red cat 0", "a blue cat 0")
    check(data)  # what it was made from still decodes
    plain = Dataset.from_dict({"image": [1], "caption": ["a"]})
    assert undecoded(plain)[0] == {"image": 1, "caption": "a"}


def test_a_stream_of_unknown_columns_passes():
    stream = IterableDataset.from_generator(lambda: iter([{"image": 1}]))
    assert stream.column_names is None
    check_columns(stream, COLUMNS)
    assert undecoded(stream) is stream
    check_columns(iter([]), COLUMNS)


def test_scenes_is_loaded_by_its_name(tmp_path):
    sizes = {"train_size": 5, "validation_size": 5, "test_size": 7, "image_size": 16}
    loaded = load_tripletdata("scenes", cache_dir=tmp_path, **sizes, required_columns=COLUMNS)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 5, "validation": 5, "test": 7}
    part = load_tripletdata("scenes", split="test", cache_dir=tmp_path, **sizes, columns={"caption": "neg_caption"})
    assert part["caption"] == loaded["test"]["neg_caption"]
    with pytest.raises(ValueError, match="no split 'dev'"):
        load_tripletdata("scenes", split="dev")


def test_scenes_can_be_streamed(tmp_path):
    sizes = {"train_size": 4, "validation_size": 4, "test_size": 7, "image_size": 16}
    data = load_tripletdata("scenes", split="test", streaming=True, cache_dir=tmp_path, **sizes)
    assert isinstance(data, IterableDataset)
    assert len(list(data)) == 7


def test_a_missing_column_with_an_unknown_name():
    with pytest.raises(ValueError, match=r"lacks 'source'; it has 'image'\.$"):
        check_columns([{"image": 1}], ("source",))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("preset", ["bivlc", "TROHN-Img", "winoground"])
def test_presets(tmp_path, streaming, preset):
    names = {"neg_image": "negative_image", "neg_caption": "negative_caption"}
    if preset == "winoground":
        names = {"image": "image_0", "caption": "caption_0", "neg_image": "image_1", "neg_caption": "caption_1"}
    table(**names).to_parquet(tmp_path / "set.parquet")
    check(load_tripletdata(tmp_path / "set.parquet", split="train", streaming=streaming, columns=preset))


def test_unknown_presets_and_columns(tmp_path):
    table().to_parquet(tmp_path / "set.parquet")
    with pytest.raises(ValueError, match=r"'bivlk', which is not a preset: give one of tripletclip, bivlc"):
        load_tripletdata(tmp_path / "set.parquet", columns="bivlk")
    with pytest.raises(ValueError, match=r"'neg_captoin' is not one of ours: they are image, caption"):
        load_tripletdata(tmp_path / "set.parquet", columns={"neg_captoin": "neg_caption"})
    with pytest.raises(ValueError, match=r"uses 'caption' for more than one"):
        load_tripletdata(tmp_path / "set.parquet", columns={"caption": "caption", "neg_caption": "caption"})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.large_string()])
def test_several_negative_captions(tmp_path, streaming, kind):
    lists = [["a", "b"], [], None, ["c", None]]
    if kind == pa.binary():
        lists = [few and [one and one.encode() for one in few] for few in lists]
        lists[1] = [b"\xff"]
    columns = {"image": pa.array([png("red")] * 4), "caption": pa.array(["a cat"] * 4)}
    pq.write_table(pa.table({**columns, "neg_caption": pa.array(lists, pa.list_(kind))}), tmp_path / "set.parquet")
    data = load_tripletdata(tmp_path / "set.parquet", split="train", streaming=streaming)
    assert data.features["neg_caption"] == List(Value("string"))
    rows = list(data)
    assert [row["neg_caption"] for row in rows] == [["a", "b"], [None] * (kind == pa.binary()), [], ["c", None]]
    assert rows[1].get("__error__") == ("neg_caption: caption is not UTF-8" if kind == pa.binary() else None)
    assert ("__error__" in data.column_names) == (kind == pa.binary())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.null()])
def test_the_column_of_errors_is_there_only_if_there_are_some(tmp_path, kind):
    captions = [None] if kind == pa.null() else ["a cat"]
    columns = {"image": pa.array([png("red")]), "caption": pa.array(captions, kind), "more": pa.array([1])}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    for streaming in (False, True):
        data = load_tripletdata(tmp_path / "set.parquet", split="train", streaming=streaming)
        there = ["image", "caption", "more"] + ["__error__"] * (streaming and kind == pa.binary())
        (row,) = data
        assert sorted(row) == sorted(data.column_names) == sorted(there)
        assert row["caption"] == captions[0]
        assert isinstance(row["image"], PILImage.Image)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_caption_that_is_not_utf8_is_reported_as_such(tmp_path, streaming):
    columns = {"id": pa.array(["a", "b"]), "image": pa.array([png("red")] * 2, pa.binary())}
    columns["caption"] = pa.array([b"a cat", b"\xff"], pa.binary())
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    rows = list(undecoded(load_tripletdata(tmp_path / "set.parquet", split="train", streaming=streaming)))
    processor = build_processor(["a red cat"], image_size=8)
    report = BrokenRows(tmp_path / "broken.jsonl")
    assert len(TripletCollator(processor, ("image", "caption"), broken_rows=report)(rows)["input_ids"]) == 1
    assert list(report) == [{"key": "b", "reason": "caption is not UTF-8", "column": "caption"}]
    assert len(TripletCollator(processor, ("image",))(rows)["pixel_values"]) == 2  # it is no one's business here


@pytest.mark.parametrize(
    "first", ["image,caption\na.jpg,a dog\n", "image,caption,neg_caption\n" + "a.jpg,a dog,a cat\n" * 2]
)
def test_files_of_other_columns_are_named(tmp_path, first):
    (tmp_path / "a.csv").write_text(first)
    (tmp_path / "b.csv").write_text("picture,text\nb.jpg,a cat\n")
    with pytest.raises(ValueError, match=r"different columns, .*image, .* in .*\. Name one file, or keep") as error:
        load_tripletdata(tmp_path)
    assert "picture, text" in str(error.value)
