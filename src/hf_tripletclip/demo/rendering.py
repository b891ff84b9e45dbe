# SPDX-License-Identifier: Apache-2.0
"""The demo's answers as HTML. All text that a visitor typed is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from hf_tripletclip.demo.scoring import Comparison, Composition, Trial, listed
from hf_tripletclip.utils.pages.markup import text
from hf_tripletclip.utils.pages.words import differing_words

KINDS = {
    "replace_obj": "object replaced",
    "replace_att": "attribute replaced",
    "replace_rel": "relation or action replaced",
    "swap_obj": "objects swapped",
    "swap_att": "attributes swapped",
    "add_obj": "object added",
    "add_att": "attribute added",
}
UNKNOWN_KIND = "your own"


def problem(message: str) -> str:
    """A message that says what went wrong."""
    return f'<div class="tc-problem" role="alert"><strong>Not done.</strong> {text(message)}</div>'


def hint(message: str) -> str:
    """A message that is no error."""
    return f'<p class="tc-hint" role="status">{text(message)}</p>'


def comparisons(answers: Sequence[Comparison]) -> str:
    """The scores of captions, in a panel for each model."""
    return _panels([_comparison(answer) for answer in answers])


def compositions(answers: Sequence[Composition]) -> str:
    """The caption against its hard negatives, in a panel for each model."""
    return _panels([_composition(answer) for answer in answers])


def _panels(panels: Sequence[str]) -> str:
    return f'<div class="tc-panels">{"".join(panels)}</div>'


def _panel(name: str, summary: str, table: str, notes: Sequence[str]) -> str:
    remarks = "".join(f'<p class="tc-note">{text(note)}</p>' for note in notes)
    return (
        f'<section class="tc-panel" aria-label="{text(name)}"><h3>{text(name)}</h3>'
        f'<p class="tc-summary">{summary}</p>{remarks}{table}</section>'
    )


def _comparison(answer: Comparison) -> str:
    best = answer.best
    if best is not None:
        summary = f"Best: <strong>{text(answer.scores[best].caption)}</strong>"
    elif len(answer.scores) == 1:
        summary = "One caption has the probability 1: give others to compare it with."
    else:
        summary = "Several captions tie for the best score."
    rows = []
    for number, score in enumerate(answer.scores):
        share = f"{100 * score.probability:.1f}%"
        rows.append(
            f'<tr{" class=tc-best" if number == best else ""}><th scope="row" dir="auto">{text(score.caption)}</th>'
            f'<td class="tc-number">{_number(score.cosine)}</td><td class="tc-share"><span>{share}</span>'
            f'<span class="tc-bar" aria-hidden="true"><i style="width:{share}"></i></span></td></tr>'
        )
    table = (
        '<table><thead><tr><th scope="col">Caption</th><th scope="col" class="tc-number">Cosine</th>'
        f'<th scope="col">Probability</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    foot = (
        f'<p class="tc-foot">Probability: softmax over these captions of {answer.scale:.1f} × cosine, which is the '
        "model's own scale.</p>"
    )
    return _panel(answer.model, summary, table + foot, answer.notes)


def _composition(answer: Composition) -> str:
    total = answer.tested
    wrong = total - answer.right
    confused = "none" if not wrong else str(wrong)
    summary = f"<strong>Right on {answer.right} of {total}</strong>: it confuses {confused}."
    if untested := len(answer.trials) - total:
        summary = f"{summary if total else ''} {untested} not tested: this model does not know all the words.".strip()
    rows = "".join(_trial(answer.caption, trial) for trial in answer.trials)
    cosine = answer.trials[0].caption_cosine
    table = (
        f'<p class="tc-own" dir="auto">{text(answer.caption)} '
        f'<span class="tc-quiet">cosine {_number(cosine)}</span></p>'
        '<table><thead><tr><th scope="col">Hard negative</th><th scope="col">Verdict</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        '<p class="tc-foot">Lead: cosine of the caption minus cosine of the negative. The caption must score strictly '
        "higher; a tie is wrong.</p>"
    )
    return _panel(answer.model, summary, table, answer.notes)


def _trial(caption: str, trial: Trial) -> str:
    if trial.unknown:
        return _row(
            caption, trial, "unknown", "?", "not tested", f"{text(listed(trial.unknown))} unknown to this model"
        )
    verdict, sign = ("right", "✓") if trial.right else ("tie", "=") if trial.tie else ("confused", "✗")
    lead = f'<span class="tc-number">{_number(trial.difference, "+.4f")}</span>'
    return _row(caption, trial, "right" if trial.right else "wrong", sign, verdict, lead)


def _row(caption: str, trial: Trial, style: str, sign: str, verdict: str, detail: str) -> str:
    kind = KINDS.get(trial.kind, trial.kind) if trial.kind else UNKNOWN_KIND
    return (
        f'<tr class="tc-{style}"><th scope="row" dir="auto">'
        f'{marked(caption, trial.negative)}<span class="tc-kind">{text(kind)}</span></th>'
        f'<td class="tc-verdict"><strong><span aria-hidden="true">{sign}</span> {verdict}</strong> '
        f"{detail}</td></tr>"
    )


def _number(value: float, how: str = ".4f") -> str:
    return format(value, how).replace("-", "\N{MINUS SIGN}")


def marked(caption: str, negative: str) -> str:
    """The negative as HTML. Words that differ from the caption's are marked."""
    parts = []
    for differs, words in groupby(differing_words(caption, negative)[1], key=lambda word: word[1]):
        run = " ".join(text(word) for word, _ in words)
        parts.append(f"<mark>{run}</mark>" if differs else run)
    return " ".join(parts)
