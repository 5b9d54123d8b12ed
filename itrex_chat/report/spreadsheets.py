"""A comparison as CSV: a line for each answer, or for each figure that was measured."""

import csv
import io
from collections.abc import Iterator

from itrex_chat.comparison import AnswerPair, Comparison, ModelComparison, likeness
from itrex_chat.comparison.figures import AGREEMENT
from itrex_chat.foundation.harmless import for_spreadsheet
from itrex_chat.jobs.answer import Answer
from itrex_chat.quality.passages import ANSWERS
from itrex_chat.quality.record import ModelQuality

CSV_FIELDS = (
    "model",
    "variant",
    "id",
    "category",
    "question",
    "expected",
    "text",
    "finish_reason",
    "prompt_tokens",
    "new_tokens",
    "drafted_tokens",
    "accepted_tokens",
    "drafter",
    "places",
    "agreed",
    "plain_tpot",
    "batch",
    "ttft",
    "tpot",
    "tokens_per_second",
    "contention",
    "seconds",
    "first_divergent_token",
    "identical",
    "chrf",
    "bleu",
    "repetition",
    "language",
    "matches_expected",
    "contains_expected",
)


def figures_csv(comparison: Comparison) -> str:
    """One line for each measured figure: its value and the ends of its 95 % interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("model", "variant", "baseline", "corpus", "positions", "figure", "value", "low", "high"))
    for model in comparison.models:
        writer.writerows(_measured(model.model, model.quality) if model.quality else ())
        if (found := model.figures[0].drafted) and found.share:
            row = [model.model, found.by, model.baseline, ANSWERS, found.places, AGREEMENT]
            share = found.share
            writer.writerow([for_spreadsheet(cell) for cell in (*row, share.value, share.low, share.high)])
    return out.getvalue()


def _measured(model: str, quality: ModelQuality) -> Iterator[list[object]]:
    """A row for each figure of each variant and corpus."""
    for name, variant in quality.variants.items():
        for corpus in variant.corpora:
            for figure, found in corpus.figures.items():
                row = [model, name, quality.baseline, corpus.name, corpus.positions, figure]
                yield [for_spreadsheet(cell) for cell in (*row, found.value, found.low, found.high)]


def as_csv(comparison: Comparison) -> str:
    """One line for each answer."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for model in comparison.models:
        written: set[tuple[str, str]] = set()
        for variant, pairs in model.pairs.items():
            for pair in pairs:
                for name, answer in ((model.baseline, pair.baseline), (variant, pair.answer)):
                    if answer is not None and (name, pair.id) not in written:
                        written.add((name, pair.id))
                        writer.writerow(_csv_row(model, name, pair, answer, name == variant and name != model.baseline))
    return out.getvalue()


def _csv_row(
    model: ModelComparison, variant: str, pair: AnswerPair, answer: Answer, compared: bool
) -> dict[str, object]:
    row: dict[str, object] = {
        "model": model.model,
        "variant": variant,
        "id": pair.id,
        "category": pair.category,
        "question": pair.question,
        "expected": pair.expected,
        "first_divergent_token": "",
        "identical": "",
        "chrf": "",
        "bleu": "",
        "repetition": round(likeness.repetition(answer.token_ids), 4),
        "language": likeness.language_of(answer.text),
        "matches_expected": likeness.matches(answer.text, pair.expected) if pair.expected else "",
        "contains_expected": likeness.contains(answer.text, pair.expected) if pair.expected else "",
    }
    row |= {field: value for field, value in vars(answer).items() if field in CSV_FIELDS}
    if answer.drafts:
        row |= {"drafter": answer.drafts.by, "places": answer.drafts.places, "agreed": answer.drafts.agreed}
    row["plain_tpot"] = answer.plain_tpot
    if compared and pair.chrf is not None and pair.bleu is not None:
        row |= {
            "first_divergent_token": "" if pair.identical else pair.equal_tokens,
            "identical": pair.identical,
            "chrf": round(pair.chrf, 2),
            "bleu": round(pair.bleu, 2),
        }
    return {field: for_spreadsheet(value) for field, value in row.items()}
