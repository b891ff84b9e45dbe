# SPDX-License-Identifier: Apache-2.0
"""Small triplet datasets on the disk."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from tests.data.test_tars import png

KINDS = ("replace_obj", "replace_att", "swap_att")
NOUNS = ("cat", "dog", "fish", "bird", "car", "house")
HOSTILE = (
    "</script><script>document.title = 'owned'</script> a cat",
    '<img src="http://127.0.0.1:9/x.png" onerror="document.title = 1"> a dog & a "bird"',
    "\u202eturned\x00around",
    "شجرة خضراء كبيرة",
    "w" * 3000,
)
SCORES = ("clip_score", "neg_clip_score", "cross_clip_score", "image_similarity")


def scored_rows(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """
    Rows with scores. Captions of `replace_att` give themselves away: their negatives say "blue". Those of the other
    kinds do not.
    """
    draw = random.Random(seed)
    rows = []
    for index in range(number):
        kind = KINDS[index % len(KINDS)]
        first, second = draw.sample(NOUNS, 2)
        words = {
            "replace_obj": (f"a red {first}", f"a red {second}"),
            "replace_att": (f"a red {first}", f"a blue {first}"),
            "swap_att": (f"a {first} and a {second}", f"a {second} and a {first}"),
        }[kind]
        clip = draw.gauss(0.28, 0.04)
        rows.append(
            {
                "id": f"row-{index:05d}",
                "image": {"bytes": png((index % 255, 0, 0)), "path": None},
                "caption": words[0],
                "neg_image": {"bytes": png((0, index % 255, 0)), "path": None},
                "neg_caption": words[1],
                "negative_type": kind,
                "generator": "rules + diffusers:tiny",
                "clip_score": clip,
                "neg_clip_score": draw.gauss(0.24, 0.05),
                "cross_clip_score": clip - abs(draw.gauss(0.03, 0.02)),
                "image_similarity": draw.random() if index % 10 else None,
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]], row_group: int = 100) -> Path:
    """A parquet file of `scored_rows`."""
    text = ("id", "caption", "negative_type", "generator")
    several = any(isinstance(row["neg_caption"], list) for row in rows)
    features = Features({name: Value("string") for name in text if name in rows[0]})
    features |= {"image": Image(), "neg_image": Image(), **{name: Value("float32") for name in SCORES}}
    features["neg_caption"] = List(Value("string")) if several else Value("string")
    if several:
        features["negative_type"] = List(Value("string"))
    features = Features({name: feature for name, feature in features.items() if name in rows[0]})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=features.arrow_schema), path, row_group_size=row_group)
    return path


def write_dataset(folder: Path) -> Path:
    """Two splits with hostile captions, broken rows and the list of what generation left out."""
    rows = scored_rows(240)
    for index, caption in enumerate(HOSTILE):
        rows[index] |= {"caption": caption, "neg_caption": f"{caption} again", "negative_type": "</td>kind"}
    rows[50]["image"] = {"bytes": png("red")[:40], "path": None}
    rows[51]["neg_image"] = None
    rows[52]["neg_caption"] = " "
    write_rows(folder / "data" / "train-00000-of-00001.parquet", rows[:200])
    write_rows(folder / "data" / "test-00000-of-00001.parquet", rows[200:])
    left_out = [{"split": "train", "row": 7, "reason": reason} for reason in ("captions: refusal",) * 3]
    lines = [json.dumps(line) for line in left_out] + ['{"split": "tr']
    (folder / "left_out.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
