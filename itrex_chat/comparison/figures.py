"""The names of figures that a `--fail-if` can compare. Their help needs them, so nothing is imported here."""

ONLINE = "online"  # another model's answers, from an endpoint: a column to read beside the variants
MEASURED = (
    *("ppl_base", "ppl", "ppl_ratio"),
    *("kld_mean", "kld_median", "kld_90", "kld_99", "kld_999", "kld_max"),
    "same_top",
    *("dp_mean", "dp_rms", "dp_1", "dp_5", "dp_25", "dp_median", "dp_75", "dp_95", "dp_99"),
)
RATIOS = {
    "speedup": "tokens_per_second",
    "memory_ratio": "peak_memory",
    "size_ratio": "disk_bytes",
    "ttft_ratio": "ttft",
}
ANSWERED = ("chrf", "bleu", "equal_tokens", "repetition", "tokens_per_second", "ttft", "peak_memory")
SHARES = {"identical": "answers", "stopped": "answers", "matching": "expected", "containing": "expected"}
AGREEMENT = "agreement"  # how often the baseline would have chosen the next token of the variant that drafted for it
NAMES = (*MEASURED, *RATIOS, *ANSWERED, *SHARES, AGREEMENT)
