# SPDX-License-Identifier: Apache-2.0
"""Opens WordNet (Miller 1995), wherever it is installed, through NLTK's reader."""

from __future__ import annotations

import functools
import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tripletclip.utils.extras import optional_imports

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

VARIABLES = ("WNSEARCHDIR", "WORDNET_DIR")  # the folder of `data.noun`; the first is WordNet's own
FOLDERS = (
    "/usr/share/wordnet",  # Debian's wordnet-base, Fedora
    "/usr/share/wordnet/dict",
    "/usr/local/WordNet-3.0/dict",  # WordNet's own installer
    "/usr/local/share/wordnet",
    "/opt/homebrew/opt/wordnet/dict",
)
NEEDED = tuple(f"{kind}.{suffix}" for kind in ("data", "index") for suffix in ("noun", "verb", "adj", "adv"))
NEEDED += ("noun.exc", "verb.exc", "adj.exc", "adv.exc", "cntlist.rev")
HOW = "`python -m nltk.downloader wordnet`, or `apt install wordnet-base` on Debian and Ubuntu"

# WordNet's lexicographer files by their number, which Debian's package lacks as a file: lexnames(5WN).
_ADJECTIVES = ("all", "pert")
_NOUNS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object "
    "person phenomenon plant possession process quantity relation shape state substance time"
)
_VERBS = (
    "body change cognition communication competition consumption contact creation emotion motion perception "
    "possession social stative weather"
)
LEXNAMES = (
    *((f"adj.{name}", 3) for name in _ADJECTIVES),
    ("adv.all", 4),
    *((f"noun.{name}", 1) for name in _NOUNS.split()),
    *((f"verb.{name}", 2) for name in _VERBS.split()),
    ("adj.ppl", 3),
)


@functools.lru_cache(maxsize=1)
def load_wordnet() -> WordNetCorpusReader:
    """
    The English WordNet, opened once in a process: from the folder that `WNSEARCHDIR` or `WORDNET_DIR` names, else
    from `nltk_data`, else from a system's package. Nothing is downloaded.

    Raises:
        ImportError: NLTK is not installed.
        FileNotFoundError: WordNet is not installed, or lacks a file.
    """
    with optional_imports():
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):
        """Wants neither `lexnames` nor `index.sense`, which Debian's package lacks, nor other languages."""

        def open(self, file: str) -> Any:
            if file == "lexnames":
                lines = (f"{index:02d}\t{name}\t{number}\n" for index, (name, number) in enumerate(LEXNAMES))
                return io.StringIO("".join(lines))
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping between versions: only the multilingual functions use it."""

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return Reader(_find(nltk), None)


def _find(nltk: Any) -> Any:
    for variable in VARIABLES:
        if folder := os.environ.get(variable):
            if missing := [name for name in NEEDED if not (Path(folder) / name).is_file()]:
                raise FileNotFoundError(f"{variable} names {folder}, which has no {missing[0]} of WordNet's")
            return _allowed(nltk, folder)
    for resource in ("corpora/wordnet/", "corpora/wordnet.zip/wordnet/"):  # the downloader leaves it zipped
        try:
            return nltk.data.find(resource)
        except LookupError:
            continue
    for folder in FOLDERS:
        if all((Path(folder) / name).is_file() for name in NEEDED):
            return _allowed(nltk, folder)
    raise FileNotFoundError(
        f"WordNet is not installed: get it by {HOW}. Or set {VARIABLES[0]} to the folder that has its {NEEDED[0]}"
    )


def _allowed(nltk: Any, folder: str) -> Any:
    # NLTK reads files below the entries of this list only.
    if folder not in nltk.data.path:
        nltk.data.path.append(folder)
    return nltk.data.FileSystemPathPointer(folder)
