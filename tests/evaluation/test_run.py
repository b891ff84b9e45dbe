# SPDX-License-Identifier: Apache-2.0
"""The runner: which benchmarks, where their data is, what is kept, what fails."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from hf_tripletclip.evaluation import BenchmarksFailed, Encoder, SugarCrepe, Triplets, evaluate
from hf_tripletclip.evaluation.arguments import benchmark_options, main, parse_evaluation_arguments
from hf_tripletclip.evaluation.registry import (
    BENCHMARKS,
    benchmark_class,
    build_benchmark,
    by_benchmark,
    location_field,
    place_of,
)
from hf_tripletclip.evaluation.run import choose, safe_name
from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.result import format_result
from tests.evaluation import CAPTIONS
from tests.evaluation.benchmarks import picture, write_csv, write_images, write_table

TRIPLETS = {"data": "scenes", "max_rows": 12}


@pytest.fixture
def sugarcrepe(tmp_path) -> Path:
    """One category of SugarCrepe, with its images beside it."""
    folder = tmp_path / "data" / "sugarcrepe"
    folder.mkdir(parents=True)
    rows = {}
    for index, caption in enumerate(CAPTIONS):
        Image.new("RGB", (20, 16), (60 * index, 100, 0)).save(folder / f"{index}.png")
        rows[str(2 * index)] = {
            "filename": f"{index}.png",
            "caption": caption,
            "negative_caption": CAPTIONS[index - 1],
        }
    (folder / "swap_att.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def saved(model, processor, tmp_path) -> str:
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


class Counting(Encoder):
    """Counts what it is asked to encode."""

    encoded = 0

    def _encode_images(self, images):
        type(self).encoded += len(images)
        return super()._encode_images(images)


@pytest.fixture
def encoder(model, processor) -> Encoder:
    Counting.encoded = 0
    return Counting(model, processor, name="some/model", progress=False)


# ---- Where the data is ----


def test_places_are_for_all_or_for_one():
    assert by_benchmark(None, "data") == {}
    assert by_benchmark("here", "data") == {"*": "here"}
    assert by_benchmark(["here", "cola=a=b"], "data") == {"*": "here", "cola": "a=b"}
    assert by_benchmark({"cola": "there"}, "data") == {"cola": "there"}
    assert by_benchmark("./odd=name", "data") == {"*": "./odd=name"}  # no benchmark is called so
    for values, message in (
        (["one", "two"], "`data` has two places for all benchmarks, one and two"),
        (["cola=one", "cola=two"], "two places for cola"),
        (["colla=one"], "unknown benchmark 'colla'"),
    ):
        with pytest.raises(ValueError, match=message):
            by_benchmark(values, "data")


def test_a_folder_of_the_benchmark_s_name_is_preferred(sugarcrepe, tmp_path):
    everything = str(tmp_path / "data")
    assert place_of({"*": everything}, "sugarcrepe") == str(sugarcrepe)
    assert place_of({"*": everything}, "cola") == everything
    assert place_of({"*": everything, "cola": "x"}, "cola") == "x"
    assert place_of({"cola": "x"}, "sugarcrepe") is None


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_a_place_for_its_data(name):
    assert location_field(benchmark_class(name)) in ("annotations", "data")


def test_settings_come_from_everywhere(sugarcrepe):
    where = {"*": str(sugarcrepe.parent)}
    made = build_benchmark(
        "sugarcrepe", data=where, images={"*": "i"}, options={"max_rows": 2}, shared={"max_rows": 9}
    )
    assert made == SugarCrepe(annotations=str(sugarcrepe), images="i", max_rows=2)
    assert build_benchmark("sugarcrepe", options="there") == SugarCrepe(annotations="there")
    for name in ("triplets", "similarity", "zeroshot", "mmvp"):
        assert build_benchmark(name, data={"*": "d"}, images={"*": "i"}).images == "i"
    for settings, message in (
        ({}, "say where the data of sugarcrepe is: --data sugarcrepe=PATH_OR_HUB_ID"),
        ({"options": {"annotations": "x", "colour": 1}}, "takes no colour; it takes"),
        ({"options": {"annotations": "x"}, "shared": {"max_rows": 0}}, "`max_rows` is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build_benchmark("sugarcrepe", **settings)


def test_what_would_be_ignored_is_refused():
    with pytest.raises(ValueError, match="`data` is given for cola, but the benchmarks asked for are triplets"):
        choose(["triplets"], data="cola=x")
    with pytest.raises(ValueError, match="`options` is given for cola"):
        choose(["triplets"], options={"cola": {}})
    with pytest.raises(ValueError, match=r"unknown benchmark 'cocoa'; there are sugarcrepe, .* suites default, paper"):
        choose(["cocoa"])


# ---- Running ----


def test_results_by_name_and_files(encoder, sugarcrepe, tmp_path):
    output = tmp_path / "out"
    benchmarks = ["triplets", SugarCrepe(annotations=str(sugarcrepe))]
    results = evaluate(encoder, benchmarks, options={"triplets": TRIPLETS}, output=output)
    assert list(results) == ["triplets", "sugarcrepe"]
    assert results["sugarcrepe"].metrics == SugarCrepe(annotations=str(sugarcrepe))(encoder).metrics
    for name, result in results.items():
        assert EvaluationResult.load(output / "some__model" / f"{name}.json") == result
        assert result.predictions["key"]
    assert sorted(path.suffix for path in (output / "some__model").iterdir()) == [".json", ".json"] + [".parquet"] * 2


def test_a_model_by_directory_or_as_an_object(model, processor, saved, sugarcrepe):
    settings = {"data": str(sugarcrepe), "progress": False, "batch_size": 3}
    by_name = evaluate(saved, "sugarcrepe", **settings)["sugarcrepe"]
    as_object = evaluate(model, "sugarcrepe", processor=processor, **settings)["sugarcrepe"]
    assert by_name.metrics == as_object.metrics
    assert by_name.settings["batch_size"] == 3
    assert by_name.model["name"] == saved
    for wrong, message in (
        ({"model": saved, "processor": processor}, "leave `processor` out"),
        ({"model": model}, "also give its processor"),
        ({"model": Encoder(model, processor), "batch_size": 3}, "an Encoder has its processor and settings"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(benchmarks="sugarcrepe", data=str(sugarcrepe), **wrong)


def test_one_that_fails_keeps_the_others(encoder, sugarcrepe, tmp_path):
    output = tmp_path / "out"
    (sugarcrepe / "add_obj.json").write_text('{"0": {"filename": "0.png",\n ]}')
    with pytest.raises(BenchmarksFailed, match=r"add_obj\.json is not valid JSON: .*line 2 column 2") as failed:
        evaluate(
            encoder,
            ["sugarcrepe", "cola", "triplets"],
            data={"sugarcrepe": str(sugarcrepe)},
            options={"triplets": TRIPLETS},
            output=output,
        )
    assert list(failed.value.errors) == ["sugarcrepe", "cola"]
    assert "say where the data of cola is" in str(failed.value.errors["cola"])
    assert list(failed.value.results) == ["triplets"]
    assert (output / "some__model" / "triplets.json").exists()
    assert not (output / "some__model" / "sugarcrepe.json").exists()


def test_errors_of_the_program_are_not_caught(encoder, sugarcrepe, monkeypatch):
    monkeypatch.setattr(SugarCrepe, "items", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(encoder, "sugarcrepe", data=str(sugarcrepe))


# ---- What is kept ----


def rerun(encoder: Encoder, sugarcrepe: Path, output: Path, **options) -> tuple[int, EvaluationResult]:
    """How many images were encoded again, and the result."""
    before = Counting.encoded
    settings = {"sugarcrepe": options.pop("settings", {})}
    result = evaluate(encoder, "sugarcrepe", data=str(sugarcrepe), output=output, options=settings, **options)
    return Counting.encoded - before, result["sugarcrepe"]


def test_a_result_that_is_there_is_kept(encoder, model, processor, sugarcrepe, tmp_path):
    output = tmp_path / "out"
    images, first = rerun(encoder, sugarcrepe, output)
    assert images == len(CAPTIONS)
    assert rerun(encoder, sugarcrepe, output) == (0, first)
    assert rerun(encoder, sugarcrepe, output, overwrite=True)[0] == len(CAPTIONS)
    other_batches = Counting(model, processor, name="some/model", progress=False, batch_size=1)
    assert rerun(other_batches, sugarcrepe, output)[0] == 0

    assert rerun(encoder, sugarcrepe, output, settings={"max_rows": 2})[0] == 2
    assert rerun(encoder, sugarcrepe, output, settings={"max_rows": 2})[0] == 0
    assert rerun(encoder, sugarcrepe, output)[0] == len(CAPTIONS)


@pytest.mark.parametrize("change", ["weights", "caption", "image", "version", "precision"])
def test_a_result_of_something_else_is_not(encoder, model, processor, sugarcrepe, tmp_path, change):
    output = tmp_path / "out"
    rerun(encoder, sugarcrepe, output)
    if change == "weights":
        model.visual_projection.weight.data += 0.01
    elif change == "caption":
        path = sugarcrepe / "swap_att.json"
        path.write_text(path.read_text().replace("a red cat", "a red dog", 1))
    elif change == "image":
        path = sugarcrepe / "0.png"
        Image.new("RGB", (20, 16), "white").save(path)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    elif change == "version":
        path = output / "some__model" / "sugarcrepe.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "versions": {"torch": "1.0"}}))
    settings = {"autocast": "bfloat16"} if change == "precision" else {}
    again = Counting(model, processor, name="some/model", progress=False, **settings)
    assert rerun(again, sugarcrepe, output)[0] == len(CAPTIONS)
    assert rerun(again, sugarcrepe, output)[0] == 0


def test_a_file_that_is_no_result_is_in_the_way_until_told(encoder, sugarcrepe, tmp_path):
    path = tmp_path / "out" / "some__model" / "sugarcrepe.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 99}')
    with pytest.raises(BenchmarksFailed, match=r"format 99 .* --overwrite replaces it"):
        evaluate(encoder, "sugarcrepe", data=str(sugarcrepe), output=tmp_path / "out")
    assert path.read_text() == '{"format": 99}'
    evaluate(encoder, "sugarcrepe", data=str(sugarcrepe), output=tmp_path / "out", overwrite=True)
    assert EvaluationResult.load(path).counts["rows"] == len(CAPTIONS)


def test_names_of_folders():
    assert safe_name("openai/clip-vit-base-patch32") == "openai__clip-vit-base-patch32"
    assert safe_name("/tmp/a b/clip@v2") == "tmp__a_b__clip@v2"
    assert safe_name("../x/./y") == "x__y"
    assert safe_name(".") == "model"


# ---- The table ----


def test_baselines_stand_beside_the_metrics():
    result = EvaluationResult(
        "sugarcrepe",
        {"swap_att": 0.5, "macro": 0.5, "tie_rate": 0.25},
        chance={"macro": 0.5},
        counts={"rows": 4, "missing": 2},
        baselines={"text tower": {"macro": 0.75, "unknown": 1.0}, "real or drawn": {"accuracy": 0.9}},
    )
    head, swap, macro, probe, rows = format_result(result).splitlines()
    assert head.split() == ["result", "chance", "text", "tower"]
    assert swap.split() == ["swap_att", "0.500"]
    assert macro.split() == ["macro", "0.500", "0.500", "0.750"]
    assert macro.rindex("0.750") + 5 == len(head)
    assert probe == "real or drawn: accuracy 0.900"
    assert rows == "4 rows, 2 missing, tie rate 0.2500"


def test_each_category_has_its_number_of_rows():
    metrics = {"size": 0.0, "colour of the sky": 1.0, "macro": 0.5}
    counts = {"rows": 1_207, "size": 6, "colour of the sky": 1_201}
    result = EvaluationResult(
        "captions", metrics, chance={"macro": 0.5}, counts=counts, baselines={"longest": metrics}
    )
    head, *lines, _ = format_result(result).splitlines()
    assert head.endswith("  longest     rows")
    assert [line.split()[-1] for line in lines] == ["6", "1,201", "0.500"]
    assert len(lines[0]) == len(lines[1]) == len(head)


# ---- Flags ----


def test_models_come_first_and_options_are_yaml(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("models: [a]\nbenchmarks: [triplets]\ndata: {triplets: scenes}\noptions: {cola: {images: x}}\n")
    arguments = parse_evaluation_arguments(
        ["b", "c/d", "--config", str(config), "--option", "cola.max_rows=3", "triplets.columns={caption: text}"]
    )
    assert arguments.models == ["b", "c/d"]
    assert arguments.data == {"triplets": "scenes"}
    assert benchmark_options(arguments) == {
        "cola": {"images": "x", "max_rows": 3},
        "triplets": {"columns": {"caption": "text"}},
    }
    assert parse_evaluation_arguments(["--config", str(config), "--allow-missing"]).allow_missing
    for argv, message in (
        (["--benchmarks", "triplets"], "name a model"),
        (["a", "--benchmark", "triplets"], r"unknown flag: --benchmark \(did you mean --benchmarks"),
        (["a", "--errors", "-1"], "`errors` is -1"),
        (["a", "--options", "[1]"], "`options` must be a mapping"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_evaluation_arguments(argv)
    for option in ("cola.max_rows", "colla.x=1", "max_rows=3"):
        with pytest.raises(ValueError, match=r"write NAME\.SETTING=VALUE"):
            benchmark_options(parse_evaluation_arguments(["a", "--option", option]))


@pytest.mark.parametrize(
    "argv",
    [
        ["MODEL/x", "--benchmarks", "triplets", "sugarcrepe", "--data", "scenes"],
        ["--benchmarks", "triplets", "sugarcrepe", "--data", "scenes", "MODEL/x"],
        ["--data", "scenes", "--benchmarks", "triplets", "sugarcrepe", "MODEL/x"],
        ["--data=scenes", "MODEL/x", "--benchmarks", "triplets", "sugarcrepe"],
        ["--benchmarks", "triplets", "sugarcrepe", "--data", "scenes", "--allow-missing", "MODEL/x"],
        ["--benchmarks", "triplets", "sugarcrepe", "--data", "scenes", "--device", "cpu", "MODEL/x"],
        ["--benchmarks", "triplets", "sugarcrepe", "--data", "scenes", "--option", "triplets.split=test", "MODEL/x"],
        ["--benchmarks", "triplets", "sugarcrepe", "--data", "scenes", "--", "MODEL/x"],
        ["--benchmarks", "triplets", "sugarcrepe", "--data", "scenes", "--models", "MODEL/x"],
    ],
)
def test_the_model_may_stand_anywhere(argv):
    found = parse_evaluation_arguments(argv)
    assert (found.models, found.benchmarks, found.data) == (["MODEL/x"], ["triplets", "sugarcrepe"], ["scenes"])


def test_the_model_may_stand_after_the_places_of_single_benchmarks():
    argv = ["--benchmarks", "sugarcrepe", "valse", "--data", "sugarcrepe=a", "valse=b"]
    found = parse_evaluation_arguments([*argv, "MODEL/x"])
    assert (found.models, found.data) == (["MODEL/x"], ["sugarcrepe=a", "valse=b"])
    found = parse_evaluation_arguments(["MODEL/x", *argv, "all"])
    assert (found.models, found.data) == (["MODEL/x"], ["sugarcrepe=a", "valse=b", "all"])


def test_a_misspelt_benchmark_is_no_model():
    found = parse_evaluation_arguments(
        ["a", "--benchmarks", "sugarcrpe", "--data", "x", "triplets=y", "--overwrite", "true"]
    )
    assert (found.models, found.benchmarks, found.data) == (["a"], ["sugarcrpe"], ["x", "triplets=y"])


def test_images_are_honoured_or_refused_by_name(tmp_path, capsys):
    write_images(tmp_path / "photos", ["a.png", "b.png"])
    rows = [{"image": f"{name}.png", "caption": "a cat", "label": 0} for name in "ab"]
    table = write_csv(tmp_path / "csv" / "own.csv", rows)
    for name, options in (("retrieval", {}), ("zeroshot", {"classnames": ["cat"]})):
        chosen = choose([name], data=str(table), images=str(tmp_path / "photos"), options={name: options})[name]
        assert [image.exists() for _, images, _ in chosen.contents() for image in images] == [True, True]
    triplets = choose(["triplets"], data=str(table), images=str(tmp_path / "photos"))["triplets"]
    assert [image.load().size for _, images, _ in triplets.contents() for image in images] == [(20, 16)] * 2
    embedded = tmp_path / "own.parquet"
    Dataset.from_dict({"image": [picture("a")], "caption": ["a"], "text": ["b"]}).to_parquet(embedded)
    for names, refused in ((["retrieval"], True), (["retrieval", "captions"], False)):
        chosen = choose(names, data=str(embedded), images=str(tmp_path / "photos"))["retrieval"]
        if refused:
            with pytest.raises(
                ValueError, match=r"retrieval: the images are in .*own.parquet itself, so the folder .*"
            ):
                list(chosen.contents())
        else:  # the other may need them
            assert len(list(chosen.contents())) == 1


def test_a_folder_without_a_test_split(tmp_path):
    write_images(tmp_path / "photos", ["a.png"])
    rows = {"image": [str(tmp_path / "photos" / "a.png")], "caption": ["a cat"], "neg_caption": ["a dog"]}
    write_table(tmp_path / "set" / "train.parquet", rows, "image")
    assert len(list(Triplets(data=str(tmp_path / "set")).contents())) == 1
    write_table(tmp_path / "set" / "validation.parquet", rows, "image")
    with pytest.raises(ValueError, match=r"set has no split test; it has train, validation: say which \(`split`"):
        list(Triplets(data=str(tmp_path / "set")).contents())


def test_the_command_evaluates_several_models(saved, sugarcrepe, tmp_path, capsys):
    shutil.copytree(saved, tmp_path / "other")
    flags = ("--benchmarks", "sugarcrepe", "--data", str(sugarcrepe), "--output", str(tmp_path / "out"))
    argv = [saved, str(tmp_path / "none"), str(tmp_path / "other"), *flags, "--disable_tqdm", "--option"]
    assert main([*argv, "sugarcrepe.max_rows=3"]) == 1  # for one model is not there
    printed = capsys.readouterr()
    assert printed.out.count("macro") == 2
    assert "3 rows, 0 missing" in printed.out
    assert f"error: {tmp_path / 'none'} cannot be loaded as a CLIP-like model" in printed.err
    assert f"failed: {tmp_path / 'none'}; the other results are in {tmp_path / 'out'}" in printed.err
    assert len(list((tmp_path / "out").glob("*/sugarcrepe.json"))) == 2

    assert main([saved, *flags, "--disable_tqdm", "--option", "sugarcrepe.max_rows=3"]) == 0
    assert "kept from" in capsys.readouterr().out
    assert main([saved, *flags, "--disable_tqdm"]) == 0
    assert "in place of an older result: `max_rows` was 3" in capsys.readouterr().out


def test_missing_images_are_refused_or_counted(saved, sugarcrepe, tmp_path, capsys):
    (sugarcrepe / "1.png").unlink()
    flags = ("--benchmarks", "sugarcrepe", "--data", str(sugarcrepe), "--output", str(tmp_path / "out"))
    argv = [saved, *flags, "--disable_tqdm"]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "1 images, of 1 of 4 rows, are missing" in error
    assert "--allow-missing" in error
    assert main([*argv, "--allow-missing"]) == 0
    assert "3 rows, 1 missing" in capsys.readouterr().out


def test_pages_of_errors_and_leakage(saved, sugarcrepe, tmp_path, capsys):
    output = tmp_path / "out"
    argv = [saved, "--benchmarks", "sugarcrepe", "--data", str(sugarcrepe), "--output", str(output), "--disable_tqdm"]
    training = tmp_path / "training"
    training.mkdir()
    shutil.copy(sugarcrepe / "2.png", training / "a.png")
    (training / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "A blue cat."}\n')
    assert main([*argv, "--errors", "3", "--leakage", str(training)]) == 0
    (page,) = output.glob("*/*.html")
    assert "swap_att" in page.read_text()
    report = json.loads(next(output.glob("*/sugarcrepe_leakage.json")).read_text())
    assert report["found"]["caption"]["pairs"] >= 1
    assert "in the training set" in capsys.readouterr().out
    assert main([*argv, "--leakage", str(tmp_path / "no-such-set")]) == 1
    assert "error: sugarcrepe" in capsys.readouterr().err
