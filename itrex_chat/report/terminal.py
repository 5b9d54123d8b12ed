"""A comparison as text for a terminal."""

import unicodedata

from itrex_chat.comparison import Comparison, ModelComparison
from itrex_chat.comparison.likeness import equal_characters
from itrex_chat.foundation.harmless import for_terminal
from itrex_chat.foundation.language import _
from itrex_chat.report.markdown import likeness
from itrex_chat.report.quality_tables import judged_lines, quality_tables, rating_rows, vote_rows
from itrex_chat.report.sentences import absent, disturbed, missing, provenance, remarks
from itrex_chat.report.tables import figure_rows
from itrex_chat.report.verdict import verdicts
from itrex_chat.settings.variant import titled


def as_text(comparison: Comparison) -> str:
    """Answers first, then the figures, so that these are what remains on the screen."""
    lines = [line for model in comparison.models for line in _model(model)]
    if rows := vote_rows(comparison.votes):
        lines += [_("Votes by people"), *aligned(rows), ""]
    return for_terminal("\n".join([*lines, *absent(comparison)]))


def _model(model: ModelComparison) -> list[str]:
    lines = [f"=== {model.model}"]
    for variant, pairs in model.pairs.items():
        for pair in pairs:
            lines += ["", f"[{pair.id}] {pair.question}"]
            answers = [(model.baseline, pair.baseline)] + (
                [(variant, pair.answer)] if variant != model.baseline else []
            )
            same = None
            if pair.baseline and pair.answer and variant != model.baseline and not pair.identical:
                same = equal_characters(pair.baseline.text, pair.answer.text)
            for name, answer in answers:
                text = _("(not answered)") if answer is None else answer.text
                if same is not None:
                    text = text[:same] + "▸" + text[same:]
                lines.append(f"  {titled(name):5} {text}".replace("\n", "\n        "))
            if alike := likeness(pair):
                lines.append(f"  · {alike}")
    lines += ["", provenance(model), "", *aligned(figure_rows(model))]
    for rows in quality_tables(model.quality, brief=True).values():
        lines += ["", *aligned(rows)]
    for variant, rated in model.ratings.items():
        lines += ["", *aligned(rating_rows(model.baseline, variant, rated))]
    lines += judged_lines(model.baseline, model.judged)
    for verdict in verdicts(model):
        lines += ["", verdict.text]
    return [*lines, *remarks(model), *disturbed(model), *missing(model), ""]


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows in columns, the first left and the others right, by the width that a terminal gives characters."""
    widths = [max(_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell + " " * (width - _width(cell)) if i == 0 else " " * (width - _width(cell)) + cell
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
