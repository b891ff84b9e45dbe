# SPDX-License-Identifier: Apache-2.0
"""Pages of the site that lie elsewhere in the repository, and links that work here and there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from hf_tripletclip.evaluation import registry as evaluation
from hf_tripletclip.generation import registry as generation
from hf_tripletclip.utils.registry import class_paths

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in RESULTS))
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s:#]+)(?P<anchor>#[^)]*)?\)")
CODE_OR_FORMULA = re.compile(r"`[^`]*`|\[(?P<inner>[^\[\]]*)\]\((?P<arguments>[^()]* [^()]*)\)")
ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
EACH = re.compile(r"^<!-- entries: (\w+) -->$", re.MULTILINE)  # stands for an entry per class of a registry
REGISTRIES = {
    "benchmarks": class_paths(evaluation.BENCHMARKS, evaluation.PACKAGE),
    **{kind: class_paths(known, generation.PACKAGE) for kind, known in generation.STAGES.items()},
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside, at the same path below the site."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """
    Write links as the site has them. In the repository, pages link to each other and to source files where they lie.
    On the site a source file is its entry in the reference, if there is one; other files have no link.
    """
    markdown = with_entries(markdown)
    here = page.file.src_uri
    folder = posixpath.dirname(here if here in OUTSIDE else posixpath.join("docs", here))

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match["target"]))
        place = path.removeprefix("docs/")
        if files.get_file_from_path(place) is not None:
            return f"[{match['text']}]({posixpath.relpath(place, posixpath.dirname(here))}{match['anchor'] or ''})"
        if not (ROOT / path).exists():
            return match[0]  # mkdocs warns of it
        module = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
        entry = _entries(files).get(module)
        return f"[{match['text']}][{entry}]" if entry else match["text"]

    return CODE_OR_FORMULA.sub(_unlinked, LINK.sub(link, markdown))


def with_entries(markdown: str) -> str:
    """A page of the reference with the entries of the registries that it names."""
    return EACH.sub(lambda match: "\n".join(f"::: {path}" for path in REGISTRIES[match[1]].values()), markdown)


def _unlinked(match: re.Match[str]) -> str:
    """`own[s = 10](v | n)` outside of code, which is no link: its place has spaces."""
    return match[0] if match["inner"] is None else rf"\[{match['inner']}\]({match['arguments']})"


def _entries(files: Files) -> dict[str, str]:
    """Modules, and the entry of the reference that each has: its own, or that of a class in it."""
    pages = [file.abs_src_path for file in files if file.src_uri.startswith("reference/") and file.abs_src_path]
    names = [name for page in pages for name in ENTRY.findall(with_entries(Path(page).read_text(encoding="utf-8")))]
    return {**{name.rpartition(".")[0]: name for name in names}, **{name: name for name in names}}
