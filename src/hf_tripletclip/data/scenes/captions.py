# SPDX-License-Identifier: Apache-2.0
"""Captions of scenes."""

from __future__ import annotations

import dataclasses

from hf_tripletclip.data.scenes.scene import Scene, Thing
from hf_tripletclip.data.scenes.vocabulary import MEASURES, PLAIN, RELATIONS, SETTINGS

# {pair}: "a red cat above a blue dog"; {third}: " and a green bird below them"; {where}: " on the beach"
TEMPLATES = (
    "{pair}{third}{where}",
    "there is {pair}{third}{where}",
    "a picture of {pair}{third}{where}",
    "{where_first}{pair}{third}",
    "we see {pair}{third}{where}",
    "{where_first}there is {pair}{third}",
)


def describe_thing(thing: Thing) -> str:
    """The phrase for an object, such as "a small striped red cat" or "a pair of orange scissors"."""
    words = [thing.size] if thing.says_size else []
    words += [thing.pattern] if thing.pattern != PLAIN else []
    words += [thing.colour, thing.noun]
    phrase = " ".join(words)
    if thing.noun in MEASURES:
        return f"{MEASURES[thing.noun]} {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def paraphrases(scene: Scene) -> list[str]:
    """Other captions of a scene, which say the same in other words."""
    template, first, second = scene.wording
    captions = [describe(scene)]
    for step in range(1, len(TEMPLATES)):
        other = describe(dataclasses.replace(scene, wording=(template + step, first + step, second + step)))
        if other not in captions:
            captions.append(other)
    return captions[1:]


def parts(scene: Scene) -> list[str]:
    """Captions of the scene's single objects."""
    return [describe_thing(thing) for thing in scene.objects]


def describe(scene: Scene) -> str:
    """The caption of a scene in its own wording: lower case, without a full stop."""
    template, first, second = scene.wording

    def relate(relation: str, choice: int) -> str:
        synonyms = RELATIONS[relation]
        return synonyms[choice % len(synonyms)]

    things = [describe_thing(thing) for thing in scene.objects]
    where = SETTINGS[scene.setting].phrase if scene.says_setting else ""
    return TEMPLATES[template % len(TEMPLATES)].format(
        pair=f"{things[0]} {relate(scene.relation, first)} {things[1]}",
        third=f" and {things[2]} {relate(scene.third_relation, second)} them" if len(things) == 3 else "",
        where=f" {where}" if where else "",
        where_first=f"{where} " if where else "",
    )
