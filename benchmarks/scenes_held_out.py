# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the default run by kind of negative: on all test rows of `scenes`, held-out rows and new compositions.

    python benchmarks/scenes_held_out.py outputs/scenes

Held-out rows have a combination of noun and colour that `train` never shows. In new rows, neither scene has the same
nouns, colours and relations as a scene in the rows of `train` that the start or the run has seen, whatever the words,
patterns, sizes and setting. The script prints the table of docs/scenes.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_tripletclip import load_scenes
from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.data.scenes import start_folder
from hf_tripletclip.data.scenes.build import make_row
from hf_tripletclip.data.scenes.scene import Scene
from hf_tripletclip.data.scenes.vocabulary import choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation import evaluate_triplets

SEEN = {0: 20_000, 1: 25_000}  # seed -> rows of `train`: those of the run and those of the start
MIRRORED = {"right": "left", "below": "above"}


def composition(scene: Scene) -> tuple[object, ...]:
    """The nouns, colours and relations of a scene; "a left of b" and "b right of a" are the same."""
    first, second, *third = [(thing.noun, thing.colour) for thing in scene.objects]
    if scene.relation in MIRRORED:
        first, second = second, first
    relation = MIRRORED.get(scene.relation, scene.relation)
    return (first, relation, second, *third, *[scene.third_relation for _ in third])


def main(models: Sequence[str]) -> None:
    nouns = choose_nouns(24)
    seen = {
        composition(scene)
        for seed, rows in SEEN.items()
        for index in range(rows)
        for scene in make_row("train", index, seed, nouns)[:2]
    }
    test = load_scenes("test")
    kinds = test["negative_type"][:]
    scenes = [make_row("test", index, 0, nouns)[:2] for index in range(len(test))]
    new = [seen.isdisjoint(map(composition, pair)) for pair in scenes]
    predictions = []
    for model in (start_folder(), *models):
        loaded, processor = load_clip_like(model)
        predictions.append(evaluate_triplets(loaded, processor, test, progress=False).predictions)
    print("| rows | kind | number | accuracy | group |\n| --- | --- | --- | --- | --- |")
    for name, chosen in (("all", [True] * len(test)), ("held out", test["held_out"][:]), ("new", new)):
        for kind in (*NEGATIVE_TYPES, None):
            rows = [row for row, asked in enumerate(chosen) if asked and kind in (None, kinds[row])]
            cells = [
                " → ".join(f"{sum(one[metric][row] for row in rows) / len(rows):.3f}" for one in predictions)
                for metric in ("accuracy", "group_score")
            ]
            print(f"| {name} | {kind or 'all kinds'} | {len(rows)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
