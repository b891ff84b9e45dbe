# SPDX-License-Identifier: Apache-2.0
"""The equations of every objective, written out row by row in float64, and batches with any number per row."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_tripletclip.objectives import OBJECTIVES, Embeddings, Objective, Tokens, get_objective
from hf_tripletclip.objectives.terms import roles_of
from hf_tripletclip.roles import ROLES

SEVERAL = ("negative_image", "negative_text", "paraphrase", "dense_text")
NUMBERS = ((2, 1, 0, 3), (2, 0, 1, 2), (0, 2, 1, 1), (1, 3, 2, 0), (1, 1, 1, 1), (3, 0, 0, 2))  # per row, of SEVERAL
# A negative caption has its image.
PAIRED = tuple(
    name for name, one in OBJECTIVES.items() if {"negative_image", "negative_text"} <= {*roles_of(one.terms)}
)
BIAS = -1.5  # of objectives that use one


def make_objective(name: str, **settings) -> Objective:
    """An objective, with a fixed bias if it uses one."""
    given = {"bias": BIAS} if any(term.uses_bias for term in OBJECTIVES[name].terms) else {}
    return get_objective(name, **{**given, **settings})


@dataclass
class Batch:
    """
    Args:
        values (`dict[str, torch.Tensor]`): Embeddings by role, with gradients.
        owners (`dict[str, list[int]]`): The row of each.
        teacher (`dict[str, torch.Tensor]`): The teacher's.
    """

    values: dict[str, torch.Tensor]
    owners: dict[str, list[int]]
    teacher: dict[str, torch.Tensor]

    def embeddings(self, masks: bool = True, **more) -> Embeddings:
        return Embeddings(**self.values, masks=self.masks() if masks else None, teacher=self.teacher, **more)

    def masks(self) -> dict[str, torch.Tensor]:
        rows, found = len(self.values["image"]), {}
        for role in SEVERAL:
            numbers = torch.tensor([self.owners[role].count(row) for row in range(rows)])
            found[role] = torch.arange(int(numbers.max())) < numbers[:, None]
        return found

    def own(self, role: str, row: int) -> list[torch.Tensor]:
        return [self.values[role][n] for n, owner in enumerate(self.owners[role]) if owner == row]


def make_batch(name: str = "", rows: int = 6, dim: int = 5, seed: int = 0, ragged: bool = False) -> Batch:
    """A batch, with one of each role per row, or with any number."""
    generator = torch.Generator().manual_seed(seed)
    owners = {role: list(range(rows)) for role in ROLES}
    if ragged:
        for column, role in enumerate(SEVERAL):
            if name in PAIRED and role.startswith("negative"):
                column = 0
            owners[role] = [row for row in range(rows) for _ in range(NUMBERS[row % len(NUMBERS)][column])]

    def draw(number: int) -> torch.Tensor:
        return torch.nn.functional.normalize(
            torch.randn(number, dim, generator=generator, dtype=torch.float64), dim=-1
        )

    values = {role: draw(len(owners[role])).requires_grad_() for role in ROLES}
    return Batch(values, owners, {role: draw(len(owners[role])) for role in ROLES})


def make_tokens(batch: Batch, dim: int = 4, seed: int = 1) -> dict[str, Tokens]:
    """Patches and words of a batch, captions of other lengths, some words left out."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for role, length in (("image", 5), ("text", 4), ("negative_text", 6)):
        number = len(batch.values[role])
        values = torch.randn(number, length, dim, generator=generator, dtype=torch.float64).requires_grad_()
        ends = torch.randint(1, length, (number, 1), generator=generator)
        mask = (torch.arange(length) > 0) & (torch.arange(length) <= ends)
        found[role] = Tokens(values, torch.ones_like(mask) if role == "image" else mask)
    return found


def local_score(patches: torch.Tensor, words: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """log sum_w e^(s cos(sum_p a_wp v_p, t_w)), word by word."""
    total = torch.zeros((), dtype=torch.float64)
    for word in words:
        closeness = [(word @ patch).item() for patch in patches]
        shares = [(one - min(closeness)) / (max(closeness) - min(closeness)) for one in closeness]
        meant = sum(share / sum(shares) * patch for share, patch in zip(shares, patches, strict=True))
        total = total + torch.exp(s * (meant @ word) / (meant.norm() * word.norm()))
    return torch.log(total)


def local_own(batch: Batch, tokens: dict[str, Tokens], s, gamma: float, smoothing: float) -> torch.Tensor:
    """`own_ce` of images with local scores."""

    def score(row: int, role: str, n: int) -> torch.Tensor:
        words = tokens[role].values[n][tokens[role].mask[n]]
        return local_score(tokens["image"].values[row], words, s)

    losses = []
    for row in range(len(batch.values["image"])):
        numbers = [n for n, owner in enumerate(batch.owners["negative_text"]) if owner == row]
        if numbers:
            logits = [score(row, "text", row), *(score(row, "negative_text", n) for n in numbers)]
            losses.append(focal(logits, gamma, smoothing))
    return mean(losses)


def focal(logits: list[torch.Tensor], gamma: float, smoothing: float) -> torch.Tensor:
    """- sum_c y_c (1 - p_c)^gamma log p_c, the target first."""
    total = sum(torch.exp(one) for one in logits)
    loss = torch.zeros(())
    for place, logit in enumerate(logits):
        p = torch.exp(logit) / total
        label = smoothing / len(logits) + (1 - smoothing if place == 0 else 0)
        loss = loss - label * (1 - p) ** gamma * torch.log(p)
    return loss


def nll(target: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    """-log e^target / (e^target + sum e^others)"""
    return torch.log(torch.exp(target) + sum((torch.exp(one) for one in others), torch.zeros(()))) - target


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).mean()


def ce(batch: Batch, query: str, keys: tuple[str, ...], s: torch.Tensor) -> torch.Tensor:
    """CE(q -> K): all pairs of a query and a target of one row; roles that pair one by one pair in their order."""
    q, t = batch.values[query], batch.values[keys[0]]
    rows_q, rows_t = batch.owners[query], batch.owners[keys[0]]
    if rows_q == rows_t:
        pairs = [(n, n) for n in range(len(q))]
    else:
        pairs = [(a, b) for b in range(len(t)) for a in range(len(q)) if rows_q[a] == rows_t[b]]
    losses = []
    for a, b in pairs:
        others = [
            s * q[a] @ key for role in keys for n, key in enumerate(batch.values[role]) if (role, n) != (keys[0], b)
        ]
        losses.append(nll(s * q[a] @ t[b], others))
    return mean(losses)


def own_ce(batch: Batch, query: str, target: str, s, gamma=0.0, smoothing=0.0, teacher=False) -> torch.Tensor:
    """Each pair against the own negative captions of its row."""
    losses = []
    for n, row in enumerate(batch.owners[target]):
        negatives = batch.own("negative_text", row)
        if not negatives:
            continue
        q, k = batch.values[query][row], (batch.teacher if teacher else batch.values)[target][n]
        logits = [s * q @ k, *(s * q @ one for one in negatives)]
        losses.append(focal(logits, gamma, smoothing))
    return mean(losses)


def cyclic(batch: Batch) -> torch.Tensor:
    v, t = batch.values["image"], batch.values["text"]
    total = torch.zeros(())
    for i in range(len(v)):
        for j in range(len(v)):
            total = total + (v[i] @ v[j] - t[i] @ t[j]) ** 2 + (v[i] @ t[j] - v[j] @ t[i]) ** 2
    return total / len(v)


def mil(batch: Batch, s: torch.Tensor) -> torch.Tensor:
    losses = []
    for i, v in enumerate(batch.values["image"]):
        own = batch.own("dense_text", i)
        if not own:
            continue
        up = sum(torch.exp(s * v @ d) for d in own)
        down = sum(torch.exp(s * v @ d) for d in batch.values["dense_text"])
        down = down + sum(torch.exp(s * other @ d) for other in batch.values["image"] for d in own)
        losses.append(torch.log(down) - torch.log(up))
    return mean(losses)


def mil_own(batch: Batch, s: torch.Tensor) -> torch.Tensor:
    losses = []
    for i, v in enumerate(batch.values["image"]):
        own, negatives = batch.own("dense_text", i), batch.own("negative_text", i)
        if own and negatives:
            up = sum(torch.exp(s * v @ d) for d in own)
            losses.append(torch.log(up + sum(torch.exp(s * v @ d) for d in negatives)) - torch.log(up))
    return mean(losses)


def margin(batch: Batch, s: torch.Tensor) -> torch.Tensor:
    v, t = batch.values["image"], batch.values["text"]
    gaps = [s * v[i] @ t[i] - s * v[i] @ n for i in range(len(v)) for n in batch.own("negative_text", i)]
    theta = min(mean(gaps).item(), 10.0)
    return mean([torch.relu(theta - gap) for gap in gaps])


def within(batch: Batch, s: torch.Tensor) -> torch.Tensor:
    v, t = batch.values["image"], batch.values["text"]
    return mean([nll(s * v[i] @ t[i], [s * t[i] @ n for n in batch.values["negative_text"]]) for i in range(len(v))])


def ranks(batch: Batch, query: str, s: torch.Tensor, prior: float = 0.0) -> torch.Tensor:
    """Each query, minus a share of the mean query, with its row's caption and each of the row's negatives."""
    queries, losses = batch.values[query], []
    common = sum(queries) / len(queries)
    for n, row in enumerate(batch.owners[query]):
        for negative in batch.own("negative_text", row):
            gap = s * (queries[n] - prior * common) @ (batch.values["text"][row] - negative)
            losses.append(torch.log(1 + torch.exp(-gap)))
    return mean(losses)


def prior_of(batch: Batch, s: torch.Tensor) -> torch.Tensor:
    common = sum(batch.values["image"]) / len(batch.values["image"])
    pairs = zip(batch.values["text"], batch.teacher["text"], strict=True)
    return mean([(s * common @ (t - before)) ** 2 for t, before in pairs])


def sigmoid(batch: Batch, images: tuple[str, ...], texts: tuple[str, ...], s, b) -> torch.Tensor:
    """The sigmoid loss of all images and captions of some roles: a sum over captions, a mean over images."""
    v, t = (torch.cat([batch.values[role] for role in roles]) for roles in (images, texts))
    total = torch.zeros(())
    for i in range(len(v)):
        for j in range(len(t)):
            z = 1 if i == j else -1
            total = total - torch.log(1 / (1 + torch.exp(-z * (s * v[i] @ t[j] + b))))
    return total / len(v)


def to_teacher(batch: Batch, role: str) -> torch.Tensor:
    return sum(((one - other) ** 2).sum() for one, other in zip(batch.values[role], batch.teacher[role], strict=True))


def reference(name: str, batch: Batch, s: torch.Tensor) -> torch.Tensor:
    """The loss of an objective with its default settings."""

    def clip(*text: str) -> torch.Tensor:
        return (ce(batch, "image", ("text", *text), s) + ce(batch, "text", ("image",), s)) / 2

    def triplet() -> torch.Tensor:
        second = ce(batch, "negative_image", ("negative_text", "text"), s)
        return clip("negative_text") + (second + ce(batch, "negative_text", ("negative_image",), s)) / 2

    negclip = lambda: clip("negative_text")  # noqa: E731
    if name in ("clip", "laclip", "laclip_hn"):
        return clip()
    if name == "negclip":
        return negclip()
    if name == "negclip_image":
        return (ce(batch, "image", ("text",), s) + ce(batch, "text", ("image", "negative_image"), s)) / 2
    if name == "tripletclip":
        return triplet()
    if name == "clip_all":
        v, t = (torch.cat([batch.values[f"{side}{role}"] for side in ("", "negative_")]) for role in ("image", "text"))
        logits, labels = s * v @ t.T, torch.arange(len(v))
        cross_entropy = torch.nn.functional.cross_entropy
        return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    if name == "cyclip":
        return clip() + 0.25 * cyclic(batch)
    if name == "cyclip_triplet":
        return triplet() + 0.25 * cyclic(batch)
    if name == "conclip":
        first, second = (
            ce(batch, "image", ("text", "negative_text"), s),
            ce(batch, "text", ("image", "negative_image"), s),
        )
        return (first + second + ce(batch, "negative_image", ("negative_text", "text"), s)) / 3
    if name == "tsvlc":
        positives = ce(batch, "image", ("paraphrase",), s) + ce(batch, "text", ("paraphrase",), s)
        return negclip() + own_ce(batch, "image", "text", s) + positives / 2
    if name == "dac":
        return clip() + mil(batch, s) + mil_own(batch, s)
    if name == "ce_clip":
        return clip() + 0.2 * within(batch, s) + 0.2 * margin(batch, s)
    if name == "fsc_clip":
        return clip() + 0.5 * own_ce(batch, "image", "text", s, gamma=2.0, smoothing=0.02)
    if name == "degla":
        own = own_ce(batch, "image", "text", s) + own_ce(batch, "text", "text", 10.0, teacher=True)
        return (
            negclip() + 0.1 * own + 0.005 * sum(to_teacher(batch, role) for role in ("image", "text", "negative_text"))
        )
    if name == "clic":
        further = (ce(batch, "image", ("paraphrase",), s) + ce(batch, "paraphrase", ("image",), s)) / 2
        own = (own_ce(batch, "image", "text", s) + own_ce(batch, "image", "paraphrase", s)) / 2
        pairs = zip(batch.values["paraphrase"], batch.owners["paraphrase"], strict=True)
        close = mean([((batch.values["text"][row] - p) ** 2).sum() for p, row in pairs])
        return 0.5 * (clip() + further) / 2 + 0.5 * own + close
    if name == "pairwise":
        ranked = ranks(batch, "image", s, 0.8) + ranks(batch, "paraphrase", s, 0.8)
        return clip() + 10 * ranked + 0.3 * prior_of(batch, s)
    if name == "siglip":
        return sigmoid(batch, ("image",), ("text",), s, BIAS)
    if name == "siglip_triplet":
        return sigmoid(batch, ("image", "negative_image"), ("text", "negative_text"), s, BIAS)
    if name == "read_alignment":
        return negclip() + 0.5 * ce(batch, "paraphrase", ("text",), s)
    raise AssertionError(f"`reference` in {__file__} has no loss of {name!r}: write it in plain torch.")
