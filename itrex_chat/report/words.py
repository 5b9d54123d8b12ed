"""The page's own words in the language spoken."""

from itrex_chat.foundation.language import _
from itrex_chat.report.verdict import FEW_TOKENS, LIMITS


def words() -> dict[str, str]:
    return {
        "recipes": _("Recipes"),
        "layers": _("Layer by layer"),
        "steps": _("Step by step"),
        "overview": _("Overview"),
        "model": _("model"),
        "variant": _("variant"),
        "speed": _("tokens/s"),
        "ttft": _("first token"),
        "memory": _("memory"),
        "disk": _("disk"),
        "kld": _("KL divergence"),
        "top": _("same token"),
        "ppl": _("perplexity"),
        "chrf": "chrF",
        "identical": _("identical"),
        "charts": _("Speed, memory, size"),
        "quality": _("Predictions, token by token"),
        "quality_note": _(
            "Both variants read the same tokens; what they expect next is compared at each place. In "
            "brackets: 95 % interval, counted by passages."
        ),
        "all_figures": _("All figures"),
        "answers": _("Answers"),
        "answers_note": _("The least alike first. ▸ marks where two answers part."),
        "expected": _("Expected"),
        "missing": _("Missing"),
        "not_answered": _("(not answered)"),
        "tokens": _("Token by token: where the variants disagree"),
        "tokens_note": _(
            "The baseline's answer, each token shaded by the KL divergence there; the curve shows the "
            "probability that each variant gives to the token."
        ),
        "ratings": _("Ratings by people"),
        "ratings_note": _("One to five stars, given without knowing the variant. Speed is measured, not rated."),
        "votes": _("Votes by people"),
        "votes_note": _("Which answer somebody found better. In brackets: 95 % interval, counted by questions."),
        "environment": _("Environment"),
        "commands": _("Commands"),
        "commands_note": _(
            "These make the same run again, on the same machine with the same figures but for the times."
        ),
        "reading": _("How to read this"),
        "reading_kld": _(
            "KL divergence (nats) says how far a variant's expectations are from the baseline's: 0 is the "
            "same. Below {none} hardly anything is lost, below {little} little, below {noticeable} it is "
            "noticeable, above it is heavy. The verdict takes the whole 95 % interval of the longest text, and "
            "below {few} tokens it says that it cannot tell.",
            none=LIMITS[0],
            little=LIMITS[1],
            noticeable=LIMITS[2],
            few=FEW_TOKENS,
        ),
        "reading_answers": _(
            "Greedy answers that part early may be equally good: after one different word everything "
            "differs. chrF and BLEU measure likeness, not quality. Perplexity is about how well a variant "
            "predicts the text itself."
        ),
        "reading_interval": _(
            "The intervals count answers and windows of text as independent, not single tokens. They do "
            "not cover what other kinds of text would show."
        ),
        "run": _("Run"),
        "made": _("Made by itrex_chat."),
    }
