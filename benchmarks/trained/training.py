"""Training: a Llama of transformers by AdamW on one core, with a checkpoint every few minutes that the next start goes on from."""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from itrex_chat.foundation.files import write_json, write_text
from trained import texts, vocabulary
from trained.vocabulary import CONTROL_TOKENS, END, TURN_END

SAVE_EVERY = 180.0  # seconds
TELL_EVERY = 20  # steps
WARM_UP = 50  # steps
LONGEST_TEXT = 400_000  # letters
DECAY = 0.3  # the share of the steps in which the rate goes down to nothing


@dataclass(frozen=True)
class Shape:
    """Widths are multiples of 256, as llama.cpp's K-quants need them."""

    hidden: int = 512
    intermediate: int = 1536
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    vocabulary: int = 4096
    context: int = 1024

    def model(self) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            max_position_embeddings=self.context,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=CONTROL_TOKENS.index(TURN_END),
            pad_token_id=CONTROL_TOKENS.index(END),
        )
        return LlamaForCausalLM(config)


@dataclass(frozen=True)
class Plan:
    steps: int = 4200
    rows: int = 2
    length: int = 512
    rate: float = 1e-3

    def rate_at(self, step: int) -> float:
        return self.rate * min(1.0, (step + 1) / WARM_UP, (self.steps - step) / (DECAY * self.steps))


class Training:
    """What is in `folder` until now; it has the texts' tokens (`prepare`)."""

    def __init__(self, folder: Path, shape: Shape, plan: Plan):
        self.folder, self.plan = folder, plan
        self._tokens = torch.load(folder / "tokens.pt")
        self.model = shape.model()
        matrices = [value for value in self.model.parameters() if value.ndim > 1]
        vectors = [value for value in self.model.parameters() if value.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.95))
        self.done, self.loss = 0, float("nan")
        if self._state.exists():
            saved = torch.load(self._state)
            self.model.load_state_dict(saved["model"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self.done, self.loss = saved["done"], saved["loss"]

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def go_on(self, until: int) -> None:
        """Train until so many steps are done; what is done is kept every few minutes and at the end."""
        weights, tokens = sum(map(torch.numel, self.model.parameters())), len(self._tokens["ids"])
        print(f"{tokens} tokens, {weights / 1e6:.1f} M weights, from step {self.done}", flush=True)
        saved = told = time.monotonic()
        losses: list[float] = []
        while self.done < until:
            for group in self._optimizer.param_groups:
                group["lr"] = self.plan.rate_at(self.done)
            losses.append(_step(self.model, self._optimizer, _rows(self._tokens["ids"], self.plan, self.done)))
            self.done, now = self.done + 1, time.monotonic()
            if len(losses) == TELL_EVERY or self.done == until:
                if len(losses) == TELL_EVERY or self.done <= TELL_EVERY:
                    self.loss = sum(losses) / len(losses)
                speed = len(losses) * self.plan.rows * self.plan.length / (now - told)
                print(f"{self.done}/{self.plan.steps}: loss {self.loss:.3f}, {speed:.0f} tokens/s", flush=True)
                told, losses = now, []
            if now - saved > SAVE_EVERY or self.done == until:
                self._save()
                saved = time.monotonic()

    def _save(self) -> None:
        part = self._state.with_suffix(".part")
        values = {"model": self.model.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save(values | {"done": self.done, "loss": self.loss}, part)
        os.replace(part, self._state)

    def finish(self) -> Path:
        """A checkpoint in float16, as published models are: nothing in it is rounded to fewer bits."""
        from tokenizers import Tokenizer

        target = self.folder / "model"
        self.model.half().save_pretrained(target)
        vocabulary.write(Tokenizer.from_file(str(self.folder / "tokenizer.json")), target)
        write_json(target / "training.json", {"texts": self._tokens["texts"], **asdict(self.plan), "loss": self.loss})
        return target


def prepare(folder: Path, shape: Shape, gathered: texts.Texts) -> None:
    """The tokenizer, the training's tokens, and the texts that models are measured and calibrated on."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = [*gathered.training, *(part for pair in gathered.chats for part in pair)]
    tokenizer = vocabulary.train(everything, shape.vocabulary)
    vocabulary.write(tokenizer, folder)
    for name, parts in (
        ("same-kind", gathered.held_out),
        ("other-kind", gathered.other_kind),
        ("calibration", gathered.training),
    ):
        write_text(folder / f"{name}.txt", "\n\n".join(parts)[-LONGEST_TEXT:])
    ids = torch.tensor(vocabulary.stream(tokenizer, gathered), dtype=torch.int16)
    torch.save({"ids": ids, "texts": gathered.digest()}, folder / "tokens.pt")


def train(folder: Path, shape: Shape, plan: Plan) -> Path:
    """The folder of the finished checkpoint. What an earlier start left in `folder` is gone on from."""
    if not (folder / "tokens.pt").exists():
        prepare(folder, shape, texts.gather())
    training = Training(folder, shape, plan)
    training.go_on(plan.steps)
    return training.finish()


def _rows(ids: torch.Tensor, plan: Plan, step: int) -> torch.Tensor:
    """Windows at places drawn by the step's number alone, int64 [rows, length + 1]."""
    draw = torch.Generator().manual_seed(step)
    starts = torch.randint(len(ids) - plan.length - 1, (plan.rows,), generator=draw).tolist()
    return torch.stack([ids[start : start + plan.length + 1] for start in starts]).long()


def _step(model: Any, optimizer: torch.optim.Optimizer, rows: torch.Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
