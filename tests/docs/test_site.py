# SPDX-License-Identifier: Apache-2.0
"""The site builds without a warning, and its reference has all public names."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from hf_tripletclip.evaluation.registry import BENCHMARKS, PACKAGE
from hf_tripletclip.generation import registry as generation
from hf_tripletclip.utils.registry import class_paths

ROOMS = (
    "checkpoints",
    "data",
    "demo",
    "evaluation",
    "generation",
    "hub",
    "joining",
    "layouts",
    "mining",
    "modeling",
    "objectives",
    "results",
    "training",
)


@pytest.fixture(scope="module")
def rewritten(pytestconfig):
    pytest.importorskip("griffe")
    sys.path.insert(0, str(pytestconfig.rootpath / "docs" / "tools"))
    try:
        return importlib.import_module("docstrings").rewritten
    finally:
        sys.path.pop(0)


def test_types_are_plain_and_defaults_are_left_to_the_signature(rewritten):
    text = (
        "Says `x`.\n\nArgs:\n"
        "    a (`int`, *optional*, defaults to `5`): One.\n"
        "    b (`torch.Tensor` of shape `(rows, width)`): Two (of `c`).\n"
        "    c, d (*optional*): Three.\n"
        "    **kwargs: Four.\n\n"
        "Returns:\n    `dict[str, int]`: Five.\n"
    )
    assert rewritten(text, {}) == (
        "Says `x`.\n\nArgs:\n"
        "    a (int): One.\n"
        "    b (torch.Tensor of shape (rows, width)): Two (of `c`).\n"
        "    c, d: Three.\n"
        "    **kwargs: Four.\n\n"
        "Returns:\n    dict[str, int]: Five.\n"
    )


def test_references_are_links_if_the_site_has_an_entry(rewritten):
    documented = {"Here": "room.Here"}
    text = "See [`Here`], [`~hf_tripletclip.room.Here`], [`~transformers.Here`], [`Gone`] and [`a`](b.md).\n"
    expected = "See [`Here`][room.Here], [`Here`][room.Here], `Here`, `Gone` and [`a`](b.md).\n"
    assert rewritten(text, documented) == expected
    assert rewritten("Args:\n    x ([`Here`], *optional*): It.\n", documented) == "Args:\n    x (Here): It.\n"


def _path(one: object) -> str:
    return f"{getattr(one, '__module__', None)}.{getattr(one, '__qualname__', None)}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_public_class_and_function(pytestconfig, tmp_path):
    pytest.importorskip("mkdocs")
    inventory = pytest.importorskip("mkdocstrings").Inventory
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    entries = inventory.parse_sphinx((tmp_path / "objects.inv").open("rb"))
    for room in ROOMS:
        name = f"hf_tripletclip.{room}"
        module = importlib.import_module(name)
        public = [one for one in module.__all__ if callable(getattr(module, one))]
        # `checkpoints.convert` is a function of a module of its name; benchmarks are entries of their own modules.
        places = {one: (f"{name}.{one}", f"{name}.{one}.{one}", _path(getattr(module, one))) for one in public}
        assert not [one for one, possible in places.items() if not {*possible} & set(entries)], name
    for known, package in (
        (BENCHMARKS, PACKAGE),
        *((known, generation.PACKAGE) for known in generation.STAGES.values()),
    ):
        assert set(class_paths(known, package).values()) <= set(entries)
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not [tag for tag in ('src="http', '<link rel="stylesheet" href="http') if tag in text], page
