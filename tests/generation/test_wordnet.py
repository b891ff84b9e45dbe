# SPDX-License-Identifier: Apache-2.0
"""WordNet is found wherever it is installed."""

from __future__ import annotations

import builtins
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hf_tripletclip.generation import wordnet
from tests.generation.needs import SYSTEM_WORDNET, needs_system_wordnet, needs_wordnet


@needs_wordnet
def test_synsets_morphology_and_counts():
    reader = wordnet.load_wordnet()
    assert reader is wordnet.load_wordnet()
    dog = reader.synset("dog.n.01")
    assert dog.lexname() == "noun.animal"
    assert dog.lemmas()[0].count() > 10
    assert reader.morphy("children", "n") == "child"
    assert reader.synsets("fire truck".replace(" ", "_"))[0].name() == "fire_engine.n.01"
    assert reader.synset("walk.v.01").lexname() == "verb.motion"
    assert reader.synset("large.a.01").lexname() == "adj.all"
    assert reader.synset("quickly.r.01").lexname() == "adv.all"


# Another process: the reader is cached, and NLTK's list of folders with it.
FIND = """
from hf_tripletclip.generation.wordnet import load_wordnet
reader = load_wordnet()
print(reader.synsets("bench", "n")[0].name(), reader.synset("dog.n.01").lexname())
"""


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    import os

    kept = {name: value for name, value in os.environ.items() if name not in (*wordnet.VARIABLES, "NLTK_DATA")}
    return subprocess.run(
        [sys.executable, "-c", FIND], env=kept | variables, capture_output=True, text=True, timeout=120, check=False
    )


def copied(folder: Path) -> Path:
    folder.mkdir(parents=True, mode=0o755)
    for name in wordnet.NEEDED:
        shutil.copyfile(Path(SYSTEM_WORDNET) / name, folder / name)
    return folder


@needs_system_wordnet
@pytest.mark.parametrize("variable", wordnet.VARIABLES)
def test_a_folder_by_environment_variable(tmp_path, variable):
    found = run(**{variable: str(copied(tmp_path / "dict"))})
    assert found.stdout == "bench.n.01 noun.animal\n", found.stderr
    assert found.stderr == ""


@needs_system_wordnet
@pytest.mark.parametrize("zipped", [False, True])
def test_nltk_data(tmp_path, zipped):
    folder = copied(tmp_path / "corpora" / "wordnet")
    if zipped:
        with zipfile.ZipFile(tmp_path / "corpora" / "wordnet.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder, "wordnet/")
            for file in folder.iterdir():
                archive.write(file, f"wordnet/{file.name}")
        shutil.rmtree(folder)
    found = run(NLTK_DATA=str(tmp_path))
    assert found.stdout == "bench.n.01 noun.animal\n", found.stderr


def test_a_wrong_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    wordnet.load_wordnet.cache_clear()
    with pytest.raises(FileNotFoundError, match=rf"WNSEARCHDIR names {tmp_path}, which has no data.noun"):
        wordnet.load_wordnet()
    wordnet.load_wordnet.cache_clear()


def test_where_there_is_none_it_says_how_to_get_it(tmp_path, monkeypatch):
    import nltk

    for variable in wordnet.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(wordnet, "FOLDERS", (str(tmp_path / "none"),))
    wordnet.load_wordnet.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"nltk.downloader wordnet.*apt install wordnet-base.*WNSEARCHDIR"):
        wordnet.load_wordnet()
    wordnet.load_wordnet.cache_clear()


def test_without_nltk_it_says_what_to_install(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "nltk":
            raise ImportError("No module named 'nltk'", name="nltk")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    wordnet.load_wordnet.cache_clear()
    with pytest.raises(ImportError, match=r'needed for WordNet: pip install "hf_tripletclip\[generation\]"'):
        wordnet.load_wordnet()
    wordnet.load_wordnet.cache_clear()


@needs_system_wordnet
def test_lexicographer_files_are_those_of_the_data():
    """Every synset's file number has a name, and of its part of speech."""
    numbers = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
    for suffix in numbers:
        with open(Path(SYSTEM_WORDNET) / f"data.{suffix}") as file:
            used = {int(line.split()[1]) for line in file if not line.startswith(" ")}
        assert {wordnet.LEXNAMES[number][0].partition(".")[0] for number in used} == {suffix}
