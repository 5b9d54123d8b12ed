"""A comparison as Markdown."""

from typing import Any

from itrex_chat.comparison import AnswerPair, Comparison, ModelComparison
from itrex_chat.comparison.likeness import equal_characters
from itrex_chat.foundation.harmless import for_markdown, for_markdown_line, for_terminal
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.report.drafting import agreement_of, rate
from itrex_chat.report.quality_tables import judged_lines, quality_tables, rating_rows, vote_rows
from itrex_chat.report.sentences import absent, disturbed, missing, provenance, remarks
from itrex_chat.report.tables import figure_rows
from itrex_chat.report.verdict import verdicts
from itrex_chat.settings.variant import titled


def as_markdown(comparison: Comparison) -> str:
    """The whole comparison: figures, then answers side by side with ▸ where they first differ."""
    machine = comparison.machine
    parts = [
        "# " + _("What quantization costs and gives"),
        for_markdown(
            _(
                "{cpu}, {cores} cores, {memory}; itrex_chat {version}, torch {torch}. At most {tokens} tokens an answer, "
                "{choice}.",
                cpu=machine["cpu"],
                cores=machine["cores"],
                memory=readable(machine["memory"]),
                version=machine["itrex_chat"],
                torch=machine["packages"]["torch"],
                tokens=comparison.generation["max_new_tokens"],
                choice=chosen_how(comparison.generation),
            )
        ),
    ]
    for model in comparison.models:
        parts += _model(model)
    if rows := vote_rows(comparison.votes):
        parts += ["## " + _("Votes by people"), _table(rows, 2)]
    parts += map(for_markdown, absent(comparison))
    if comparison.commands:
        parts += ["## " + _("Commands"), "\n".join(map(_code, comparison.commands))]
    return "\n\n".join(parts) + "\n"


def _code(command: str) -> str:
    """A command as an indented block, where Markdown leaves everything as it is."""
    return "    " + for_terminal(command).replace("\n", "\n    ")


def chosen_how(generation: dict[str, Any]) -> str:
    if not generation["do_sample"]:
        return _("greedy decoding")
    if generation["seed"] is None:
        return _(
            "sampled (temperature {temperature}, each answer with a seed of its own)",
            temperature=generation["temperature"],
        )
    return _(
        "sampled (temperature {temperature}, seed {seed})",
        temperature=generation["temperature"],
        seed=generation["seed"],
    )


def _model(model: ModelComparison) -> list[str]:
    parts = [
        f"## {for_markdown_line(model.model)}",
        *(f"**{for_markdown(verdict.text)}**" for verdict in verdicts(model)),
        for_markdown(provenance(model)),
        _table(figure_rows(model)),
    ]
    parts += [_table(rows) for rows in quality_tables(model.quality).values()]
    parts += [_table(rating_rows(model.baseline, variant, rated)) for variant, rated in model.ratings.items()]
    parts += [for_markdown(line) for line in judged_lines(model.baseline, model.judged)]
    parts += [for_markdown(line) for line in (*remarks(model), *disturbed(model), *missing(model))]
    for variant, pairs in model.pairs.items():
        for pair in worst_first(pairs):
            parts += _pair(model.baseline, variant, pair)
    return parts


def _table(rows: list[list[str]], names: int = 1) -> str:
    """`names`: columns that may name files, as the first row may; the other cells are this program's own."""
    heading, *rest = rows
    heading, rest = (
        [for_markdown_line(cell) for cell in heading],
        [[*map(for_markdown_line, row[:names]), *row[names:]] for row in rest],
    )
    return "\n".join([_row(heading), "|---" + "|--:" * (len(heading) - 1) + "|", *(_row(row) for row in rest)])


def worst_first(pairs: list[AnswerPair]) -> list[AnswerPair]:
    """The answers least like the baseline's first, those that cannot be compared last."""
    return sorted(pairs, key=lambda pair: (pair.chrf is None, pair.chrf))


def _pair(baseline: str, variant: str, pair: AnswerPair) -> list[str]:
    title = f"### {for_markdown_line(pair.id)}" + (f" · {for_markdown_line(pair.category)}" if pair.category else "")
    parts = [title, "> " + for_markdown(pair.question).replace("\n", "\n> ")]
    if pair.expected:
        parts.append(_("Expected: {text}", text=for_markdown(pair.expected)))
    answers = [(baseline, pair.baseline)] + ([(variant, pair.answer)] if variant != baseline else [])
    texts = [answer.text if answer else "" for _name, answer in answers]
    same = equal_characters(*texts) if all(answer for _name, answer in answers) and len(answers) == 2 else None
    cells = [
        _("(not answered)") if answer is None else _marked(answer.text, same, pair.identical)
        for _name, answer in answers
    ]
    parts.append(
        "\n".join(
            [
                _row([for_markdown_line(titled(name)) for name, _answer in answers]),
                "|---" * len(answers) + "|",
                "| " + " | ".join(cells) + " |",
            ]
        )
    )
    if verdict := likeness(pair):
        parts.append(verdict)
    return parts


def likeness(pair: AnswerPair) -> str:
    """How alike the two answers are, and how fast each came, in a line."""
    if pair.baseline is None or pair.answer is None:
        return ""
    rates = " → ".join(map(rate, (pair.baseline, pair.answer)))
    same = (
        _("identical")
        if pair.identical
        else _("another model")
        if pair.equal_tokens is None
        else _("first divergent token: {index}", index=pair.equal_tokens)
    )
    agreed = agreement_of(pair, pair.answer.variant)
    if pair.baseline.batch or pair.answer.batch:
        alike = _("{same}; chrF {chrf:.1f}", same=same, chrf=pair.chrf)
        return f"{alike}; {agreed}" if agreed else alike
    if pair.baseline.cached_tokens or pair.answer.cached_tokens:
        alike = _("{same}; chrF {chrf:.1f}; {rates} tokens/s", same=same, chrf=pair.chrf, rates=rates)
        return f"{alike}; {agreed}" if agreed else alike
    alike = _(
        "{same}; chrF {chrf:.1f}; TTFT {before:.2f} → {after:.2f} s; {rates} tokens/s",
        same=same,
        chrf=pair.chrf,
        before=pair.baseline.ttft,
        after=pair.answer.ttft,
        rates=rates,
    )
    return f"{alike}; {agreed}" if agreed else alike


def _marked(text: str, same: int | None, identical: bool | None) -> str:
    """An answer as a table's cell, with a mark where it leaves the other one."""
    if same is not None and not identical:
        text = f"{for_markdown(text[:same])}**▸**{for_markdown(text[same:])}"
    else:
        text = for_markdown(text)
    return text.replace("\n", "<br>")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
