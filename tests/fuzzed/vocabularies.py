"""Vocabularies and chat templates: `tokenizer.json`, SentencePiece, tiktoken, Jinja."""

from pathlib import Path
from random import Random

from fuzzed.case import written
from fuzzed.values import TEXTS, as_json, damaged, mutated, plain

NAMES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")
TEMPLATES = (
    "{{ messages[0].content }}",
    "{{ messages }}{{ x.y }}",
    "{{ messages[9].content }}",
    "{{ raise_exception('no\x1b[31m\nTwo lines') }}",
    "{% for i in range(1000000000) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 1000000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 'x'.ljust(4000000000) }}",
    "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
    "{{ messages[0].content.__class__.__mro__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch ran').read() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{{ strftime_now('%' + 'Y' * 1000000) }}{{ strftime_now(5) }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ 2 ** 100000000 }}",
    "{{ 1 / 0 }}",
    "{{ messages | tojson(indent=1000000) }}",
    "{{ lipsum(100000) }}",
    "{% if",
    "{{" * 400,
    "{% for a in [1] %}" * 400 + "{% endfor %}" * 400,
    "{{ '\ud800' }}\udcff",
    "<|im_start|>\0\x1b[31m{{ messages[-1]['content'] }}" + "x" * 100_000,
    "",
)
PARTS = {  # of a tokenizer.json
    "normalizer": (
        {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000},
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": ""}, "content": "xx"}] * 40},
        {"type": "Prepend", "prepend": "▁" * 100_000},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        {"type": "NFC"},
    ),
    "pre_tokenizer": (
        {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": "(?<=(a|b)*)c("}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"String": ""}, "behavior": "Removed", "invert": True},
        {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"},
        {"type": "FixedLength", "length": 0},
        None,
    ),
    "decoder": (
        {"type": "Strip", "content": "", "start": 1 << 40, "stop": 0},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        None,
    ),
    "post_processor": (
        {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
        {"type": "ByteLevel"},
    ),
    "truncation": ({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 9},),
    "padding": (
        {
            "strategy": {"Fixed": 1 << 40},
            "direction": "Left",
            "pad_to_multiple_of": 0,
            "pad_id": 1 << 31,
            "pad_type_id": 0,
            "pad_token": "x",
        },
    ),
}


def change(random: Random, model: Path) -> str:
    """Change one of the files of a model's vocabulary; what was done."""
    files = [
        path for path in sorted(model.iterdir()) if path.name.startswith(("tokenizer", "vocab", "merges", "qwen."))
    ]
    file = random.choice([*files, model / random.choice(NAMES)])
    if file.suffix == ".jinja" or (file.name == "tokenizer_config.json" and random.random() < 0.5):
        return _template(random, model)
    if file.name == "tokenizer.json" and file.is_file():
        written(file, _tokenizer(file.read_bytes(), random))
    elif file.suffix == ".json":
        content = plain(file.read_bytes()) if file.is_file() else {"eos_token": "</s>", "eos_token_id": [2, 5]}
        written(file, as_json(mutated(content, random), random))
    elif file.suffix == ".tiktoken":
        written(file, _ranks(file.read_bytes(), random))
    elif file.is_file():
        written(file, damaged(file.read_bytes(), random))
    return file.name


def odd_template(random: Random, good: str) -> str:
    if random.random() < 0.6:
        return random.choice(TEMPLATES)
    at = random.randrange(len(good) + 1)
    return good[:at] + random.choice(TEMPLATES) + good[at:] if random.random() < 0.5 else good[at:] + good[:at]


def _template(random: Random, model: Path) -> str:
    """Another template in one of the places where it can be."""
    template = odd_template(random, "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}")
    where = random.randrange(3)
    if where == 0:
        written(model / "chat_template.jinja", template.encode("utf-8", "surrogatepass"))
    else:
        content: object = template if where == 1 else [{"name": "default", "template": template}, random.choice(TEXTS)]
        settings = {"chat_template": content, "eos_token": random.choice(("<|im_end|>", "", *TEXTS))}
        written(model / "tokenizer_config.json", as_json(settings, random, 0.0))
    return f"the template {template[:60]!r}"


def _tokenizer(content: bytes, random: Random) -> bytes:
    whole, how = plain(content), random.random()
    if not isinstance(whole, dict) or not isinstance(whole.get("model"), dict):
        return damaged(content, random)
    if how < 0.4:
        part = random.choice(sorted(PARTS))
        whole[part] = random.choice(PARTS[part])
    elif how < 0.6:
        _odd_tokens(whole, random)
    elif how < 0.9:
        part = random.choice(sorted(whole))
        whole[part] = mutated(whole[part], random)
    else:
        whole = mutated(whole, random)
    return as_json(whole, random, 0.05)


def _odd_tokens(whole: dict, random: Random) -> None:
    """Numbers of tokens that are taken, missing, or not of a vocabulary of this size."""
    number = random.choice((0, 5, 600, 10**6, 1 << 31, (1 << 32) - 1, 1 << 32, -1, 2.5))
    vocabulary = whole["model"].get("vocab")
    if isinstance(vocabulary, dict) and vocabulary and random.random() < 0.5:
        vocabulary[random.choice(sorted(vocabulary))] = number
    else:
        token = {
            "id": number,
            "content": random.choice(("<x>", " ", "a", *TEXTS)),
            "single_word": False,
            "special": True,
        }
        whole.setdefault("added_tokens", []).append(
            token | {"lstrip": True, "rstrip": True, "normalized": random.random() < 0.5}
        )
    if random.random() < 0.3:
        whole["model"]["merges"] = random.choice(([["a", "b"]], ["a b c"], [["", ""]], [[" ", "zz"]]))


def _ranks(content: bytes, random: Random) -> bytes:
    """A `.tiktoken` file with other lines."""
    lines = content.splitlines()
    for _time in range(random.choice((1, 5))):
        at = random.randrange(len(lines))
        line = random.choice(
            (b"", b" ", b"IQ== -1", b"IQ== 99999999999999999999", b"IQ==", b"!!! 5", b"IQ== 5 5", b"YWJj 0", b" 7")
        )
        lines[at] = random.choice((line, lines[-at], lines[at] + b"0"))
    return b"\n".join(lines) + random.choice((b"", b"\n", b"\n\n"))
