"""Whether two models have the same tokens."""

from itrex_chat.chat import CHINESE_SAMPLE, ChatTokenizer

SAMPLES = (
    CHINESE_SAMPLE,
    "The 3 quick brown foxes don't jump.\n\n",
    "def f(x: int) -> str:\n    return 'é' * x  # 😀\n",
)


def same_tokens(one: ChatTokenizer, other: ChatTokenizer, count: int) -> bool:
    """Whether two tokenizers give the same ids to the same texts and end answers alike: each of the `count` ids is the
    same text in both, and texts in some languages are split alike."""
    return (
        one.stop_ids == other.stop_ids
        and all(one.encode(text) == other.encode(text) for text in SAMPLES)
        and all(one.decode([token]) == other.decode([token]) for token in range(count))
    )
