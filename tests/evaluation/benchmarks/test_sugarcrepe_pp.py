# SPDX-License-Identifier: Apache-2.0
"""SugarCrepe++: both outcomes against a naive computation, ties, and the layout of the Hub."""

from __future__ import annotations

import json

import pytest

from hf_tripletclip.evaluation.benchmarks.sugarcrepe_pp import SugarCrepePP
from hf_tripletclip.evaluation.items import fingerprint
from tests.evaluation.benchmarks import HandEncoder, write_images, write_json
from tests.loopback_hub import run_python

WORDS = ["a red cat", "a cat, red", "a blue cat", "a red dog", "dog a red", "a dog", "a cat", "blue"]
PARTS = ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel")


def row(number: int, image: int, *captions: str) -> dict[str, object]:
    names = ("caption", "caption2", "negative_caption")
    return {"id": number, "filename": f"{image:012}.png", **dict(zip(names, captions, strict=True))}


def write_rows(folder) -> None:
    """Five files, lists, as in the authors' repository."""
    for part_number, part in enumerate(PARTS):
        rows = [
            row(
                2 * n,
                n % 3,
                *(WORDS[(part_number + n * step + start) % 8] for start, step in ((0, 1), (3, 2), (5, 3))),
            )
            for n in range(part_number + 2)
        ]
        write_json(folder / f"{part}.json", rows)
    write_images(folder / "val2017", [f"{n:012}.png" for n in range(3)])


def test_scores_and_means_are_those_of_a_naive_computation(tmp_path, model, processor, naive):
    write_rows(tmp_path)
    result = SugarCrepePP(annotations=str(tmp_path))(model, processor, batch_size=4, progress=False)
    itt, tot, pairs = {}, {}, []
    for part in PARTS:
        itt[part], tot[part] = [], []
        for entry in json.loads((tmp_path / f"{part}.json").read_text()):
            first, second, negative = (entry[name] for name in ("caption", "caption2", "negative_caption"))
            scores = naive.scores(tmp_path / "val2017" / entry["filename"], [first, second, negative])
            near = naive.between(first, second)
            itt[part].append(scores[0] > scores[2] and scores[1] > scores[2])
            tot[part].append(near > naive.between(first, negative) and near > naive.between(second, negative))
            pairs.append((scores[1], near))
    assert result.predictions["score_i0c1"] == pytest.approx([image for image, _ in pairs], abs=1e-6)
    assert result.predictions["score_c0c1"] == pytest.approx([text for _, text in pairs], abs=1e-6)
    expected = {}
    for name, outcomes in (("itt", itt), ("tot", tot)):
        rows = [value for of_part in outcomes.values() for value in of_part]
        by_part = {f"{name}_{part}": sum(values) / len(values) for part, values in outcomes.items()}
        expected |= {name: sum(rows) / len(rows), **by_part, f"{name}_macro": sum(by_part.values()) / 5}
        assert 0 < expected[name] < 1
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected)
    assert result.metrics.keys() == expected.keys() | {"tie_rate"}
    assert result.chance == dict.fromkeys(expected, pytest.approx(1 / 3))
    assert result.metrics[result.primary] == expected["itt_macro"]


def test_ties_and_single_rows(tmp_path, model, processor):
    rows = {
        "swap_obj": [row(0, 0, "p", "q", "n")],  # itt, not tot
        "swap_att": [row(0, 0, "p", "p", "n"), row(1, 0, "p", "t", "n")],  # both; a tie in itt, tot
        "replace_obj": [row(4, 0, "t", "t", "t")],  # ties everywhere
    }
    for part, of_part in rows.items():
        write_json(tmp_path / f"{part}.json", of_part)
    write_images(tmp_path, [f"{0:012}.png"])
    # The image is the first axis.
    texts = {"p": [0.5, 0.8, 0.0], "q": [0.5, -0.8, 0.0], "n": [0.25, 0.0, 1.0], "t": [0.25, 0.5, -1.0]}
    encoder = HandEncoder(model, processor, {f"{0:012}.png": [1.0, 0.0, 0.0]}, texts)
    metrics = SugarCrepePP(annotations=str(tmp_path))(encoder).metrics
    expected = {"itt": 2 / 4, "itt_swap_obj": 1, "itt_swap_att": 1 / 2, "itt_replace_obj": 0, "itt_macro": 1 / 2}
    expected |= {"tot": 2 / 4, "tot_swap_obj": 0, "tot_swap_att": 1, "tot_replace_obj": 0, "tot_macro": 1 / 3}
    assert metrics == pytest.approx({**expected, "tie_rate": 2 / 4})


def test_a_collapsed_model_scores_zero(tmp_path, collapsed, processor):
    write_rows(tmp_path)
    metrics = SugarCrepePP(annotations=str(tmp_path), protocol="official")(
        collapsed, processor, progress=False
    ).metrics
    assert metrics.pop("tie_rate") == 1.0
    assert set(metrics.values()) == {0.0}


@pytest.mark.slow  # another process, because of the Hub
def test_the_dataset_of_the_hub(tmp_path, hub):
    write_rows(tmp_path / "files")
    folder = tmp_path / "hub"
    for part, config in SugarCrepePP.CONFIGS.items():
        write_json(folder / f"{config}.json", json.loads((tmp_path / "files" / f"{part}.json").read_text()))
    configs = [f"- config_name: {config}\n  data_files: {config}.json\n" for config in SugarCrepePP.CONFIGS.values()]
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")
    hub.add("dataset", "Aman-J/SugarCrepe_pp", folder)
    code = """if True:
        import json
        from hf_tripletclip.evaluation.items import fingerprint
        from hf_tripletclip.evaluation.benchmarks.sugarcrepe_pp import SugarCrepePP
        images = {images!r}
        whole = SugarCrepePP(annotations="Aman-J/SugarCrepe_pp", images=images).items()
        part = SugarCrepePP(annotations="Aman-J/SugarCrepe_pp", images=images, parts=("swap_att",)).items()
        try:
            SugarCrepePP(annotations="Aman-J/SugarCrepe_pp").items()
        except ValueError as error:
            print(error)
        print(json.dumps([fingerprint(whole), fingerprint(part), len(part)]))
    """
    images = str(tmp_path / "files" / "val2017")
    done = run_python(code.format(images=images), hub, tmp_path / "home")
    complaint, found = done.stdout.splitlines()[-2:]
    assert complaint == "SugarCrepe++: Aman-J/SugarCrepe_pp has no images: say where they are (`images`)"
    of_files = SugarCrepePP(annotations=str(tmp_path / "files"), images=images)
    swap_att = SugarCrepePP(annotations=str(tmp_path / "files"), images=images, parts=("swap_att",))
    assert json.loads(found) == [fingerprint(of_files.items()), fingerprint(swap_att.items()), 3]


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has none of swap_obj.json, .*: get them from"):
        SugarCrepePP(annotations=str(tmp_path)).items()
    path = write_json(tmp_path / "swap_obj.json", [{"id": 1, "filename": "a.png", "caption": "p"}])
    with pytest.raises(ValueError, match=r"swap_obj.json, row 0: no caption2, negative_caption; it has id, filename"):
        SugarCrepePP(annotations=str(tmp_path)).items()
    with pytest.raises(ValueError, match=r"swap_obj.json is a file: give the folder of"):
        SugarCrepePP(annotations=str(path), images=str(tmp_path)).items()
    with pytest.raises(ValueError, match=r"there is no add_obj; the parts are swap_obj, "):
        SugarCrepePP(annotations=str(tmp_path), parts=("add_obj",))
