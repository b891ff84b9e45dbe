# SPDX-License-Identifier: Apache-2.0
"""`docs/reproduction.md`: no figures without a command, and no command that would be refused."""

from __future__ import annotations

import re
import shlex

import pytest

from hf_tripletclip.comparison.experiments import EXPERIMENTS, arms_at, find_experiment
from hf_tripletclip.comparison.main import parse

SCRIPT = "python examples/reproduce.py"


@pytest.fixture(scope="module")
def page(pytestconfig):
    return (pytestconfig.rootpath / "docs" / "reproduction.md").read_text(encoding="utf-8")


def commands_of(text: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(SCRIPT)]


def test_sections_with_measured_tables_have_their_command(page):
    sections = re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]
    measured = [section for section in sections if "| method | seeds |" in section]
    assert len(measured) >= 3
    for section in measured:
        assert commands_of(section), section.splitlines()[0]


def test_commands_are_accepted(page):
    found = commands_of(page)
    assert len(found) >= 5
    for words in found:
        options, extra = parse(words[2:], None)
        arms_at(find_experiment(options.experiment, options.scale), options.scale, options.only)
        assert not extra


def test_every_experiment_is_named(page):
    listed = page[page.index("Experiments: ") : page.index("\n\n", page.index("Experiments: "))]
    assert set(re.findall(r"`(\w+)`", listed)) == set(EXPERIMENTS)


def test_claims_name_existing_experiments_arms_and_scales(page):
    claims = page[page.index("## Claim by claim") : page.index("## Open")]
    rows = [line.strip("|").split(" | ") for line in claims.splitlines() if line.startswith("| ")]
    cells = [cells[-2] for cells in rows if len(cells) in (4, 5)]
    assert len(cells) > 20
    checked = 0
    for cell in cells:
        named = re.search(r"((?:`\w+`(?: and )?)+) at `(scenes|photos|paper)`(.*)", cell)
        if named is None:
            continue
        scale = named[2]
        arms = set()
        for name in re.findall(r"`(\w+)`", named[1]):
            arms |= {arm.label for arm in arms_at(find_experiment(name, scale), scale)}
        compared = re.match(r"[^`]*`([^`]+)` less `([^`]+)`", named[3])
        if compared is not None:  # the second may leave out what the first has said of the objective
            other = compared[2] if compared[2] in arms else f"{compared[1].split(', ')[0]}, {compared[2]}"
            assert {compared[1], other} <= arms, cell
            checked += 1
    assert checked >= 9
