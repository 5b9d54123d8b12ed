"""The engine "native"."""

import dataclasses
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.engines.finding import BAD, GOOD, NOTE, Finding
from itrex_chat.engines.memory import Memory, left
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import KernelError, RecipeError
from itrex_chat.foundation.kept import Kept
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import NATIVE, Variant

if TYPE_CHECKING:
    from itrex_chat.decoder.model import Decoder
    from itrex_chat.engines.native.session import NativeSession
    from itrex_chat.engines.on_disk import OnDisk


def _streamed(decoder: "Decoder") -> dict:
    """What `Facts` tells of weights that are read for each pass."""
    if decoder.stream is None:
        return {}
    return {"streamed_bytes": decoder.stream.nbytes, "stream_rate": decoder.stream.told().rate}


class NativeEngine:
    """Computes every variant, on every machine. Its parts are imported when they are needed: they bring torch."""

    name = NATIVE
    gives_logits = True
    batches = True

    def check(self, variant: Variant) -> None:
        """Raise KernelError where the kernel or the instructions that somebody asks for cannot be had."""
        from itrex_chat.kernels import choose, described

        described(choose())

    def on_disk(
        self, recipe: Recipe, variant: Variant, options: EngineOptions, trusted: dict[str, str] | None = None
    ) -> "OnDisk":
        from itrex_chat.engines import on_disk
        from itrex_chat.engines.native import drafts

        drafts.have_on_disk(recipe, variant, trusted)
        if variant.bits:
            return on_disk.of_artifact(variant.applied_to(recipe), trusted=trusted)
        return on_disk.of_checkpoint(recipe)

    def memory(self, found: "OnDisk", recipe: Recipe, variant: Variant, tokens: int) -> Memory:
        from itrex_chat.engines.native.memory import needed, zero_points
        from itrex_chat.kernels import choose

        assert found.decoder is not None
        quantization = variant.applied_to(recipe).quantization
        zeros = (
            zero_points(found.decoder, found.artifact.manifest["matrices"]) if found.artifact and variant.bits else 0
        )
        planned = needed(
            found.decoder,
            variant.precision,
            tokens,
            quantization,
            choose(),
            found.stored,
            recipe.fp32.storage,
            variant.cache_format(recipe),
        )
        return dataclasses.replace(planned, own=planned.own + zeros)

    def load(
        self,
        recipe: Recipe,
        variant: Variant,
        home: Path | None = None,
        options: EngineOptions = EngineOptions(),
        trusted: dict[str, str] | None = None,
        needed: int | None = None,
        batch: int = 1,
    ) -> "NativeSession":
        started, free = time.perf_counter(), left(recipe, variant)
        import torch

        from itrex_chat.engines import on_disk
        from itrex_chat.engines.native import drafts
        from itrex_chat.engines.native.drafts import Drafting
        from itrex_chat.engines.native.rehearsal import rehearsed
        from itrex_chat.engines.native.session import NativeSession
        from itrex_chat.engines.native.streaming import Room
        from itrex_chat.engines.native.weights import kept_in_16_bits, load_dense, load_quantized
        from itrex_chat.generation.prefill import PREFILL_STEP
        from itrex_chat.jobs.event import Facts
        from itrex_chat.kernels import choose, described, why_not_faster

        torch.set_num_threads(machine.threads())
        kernel = choose()
        multiplies = described(kernel)
        room = None
        if variant.bits:
            found = on_disk.of_artifact(recipe, home, trusted)
            artifact = found.artifact
            assert artifact is not None
            tokenizer = found.tokenizer(recipe)
            compute_dtype = recipe.quantization.compute_dtype
            files = found.files(home)
            decoder = load_quantized(artifact, kernel, compute_dtype)
            disk_bytes, source = artifact.nbytes(), artifact.manifest["source"]
            stored, origin = source["stored"], source["origin"]
        else:
            found = on_disk.of_checkpoint(recipe, home)
            checkpoint = found.checkpoint
            assert checkpoint is not None
            tokenizer = found.tokenizer(recipe)
            compute_dtype = variant.precision
            files = found.files(home)
            tokens = batch * min(PREFILL_STEP + recipe.generation.max_new_tokens, checkpoint.decoder.context_length)
            least = needed or self.memory(found, recipe, variant, tokens).least
            room = Room(free, least, drafts.size(recipe, variant, home, self.memory, batch))
            decoder = load_dense(checkpoint, variant.precision, recipe.fp32.storage, room.plan, home or cache_home())
            checkpoint.source.check(files.stamp or "")
            if not decoder.native_pass:
                multiplies = "torch"
            disk_bytes, stored, origin = checkpoint.source.size(), checkpoint.description, checkpoint.source.origin
        decoder = dataclasses.replace(decoder, cache_format=variant.cache_format(recipe))
        pace = rehearsed(decoder, batch) if decoder.stream else None
        facts = Facts(
            seconds=time.perf_counter() - started,
            memory=machine.peak_memory() + tokenizer.peak_memory(),
            threads=torch.get_num_threads(),
            kernel=multiplies,
            why=why_not_faster(kernel),
            compute_dtype=compute_dtype,
            disk_bytes=disk_bytes,
            weight_bytes=decoder.weight_bytes(),
            cache_format=decoder.cache_format,
            cache_bytes=decoder.cache_bytes(),
            stored=stored,
            origin=origin,
            **kept_in_16_bits(decoder),
            mapped_bytes=decoder.mapping.nbytes if decoder.mapping and decoder.mapping.nbytes else None,
            **_streamed(decoder),
            files=files,
        )
        kept = room.planned.kept if room else 0
        drafting = Drafting(
            recipe,
            variant,
            decoder,
            tokenizer,
            self.memory,
            lambda tokens: free - kept - self.memory(found, recipe, variant, tokens).own,
            home,
            {} if trusted is None else trusted,
        )
        return NativeSession(recipe, variant, tokenizer, facts, decoder, drafting, pace)

    def quantize(self, recipe: Recipe, refresh: bool = False) -> str:
        from itrex_chat.artifacts.obtaining import obtain
        from itrex_chat.quantization.statistics import Statistics

        started = time.perf_counter()
        obtained = obtain(recipe, refresh=refresh)
        seconds, artifact = time.perf_counter() - started, obtained.artifact
        statistics = Statistics(**artifact.manifest["statistics"])
        lines = [statistics.table(), f"{artifact.name}: {statistics.line()}"]
        lines += _budget_lines(artifact.manifest)
        if taken := artifact.manifest.get("taken"):
            lines.append(
                _(
                    "The integers of {count} matrices are those that the checkpoint had ({stored}).",
                    count=taken,
                    stored=artifact.manifest["source"]["stored"],
                )
            )
        if statistics.regrouped:
            lines.append(
                _(
                    "{count} matrices have a smaller group than {wanted}, because their width demands it.",
                    count=len(statistics.regrouped),
                    wanted=artifact.manifest["content"]["group_size"],
                )
            )
        lines.append(
            _("From the cache, in {seconds:.2f} s: {folder}", seconds=seconds, folder=artifact.folder)
            if obtained.cached
            else _("Kept in {folder}", folder=artifact.folder)
        )
        return "\n".join(lines)

    def told(self, facts: dict) -> list[str]:
        return []

    def build_seconds(self, facts: dict) -> float | None:
        return None

    def examine(self, tried: bool) -> list[Finding]:
        from itrex_chat.kernels import KERNELS, choose, described

        found = []
        for kernel in KERNELS.values():
            if reason := kernel.missing():
                compiler = shutil.which("gcc") or shutil.which("cc")
                remedy = (
                    _(
                        "install a C compiler (Debian, Ubuntu: apt install gcc) and then the program again: pip install "
                        "--force-reinstall --no-deps ."
                    )
                    if kernel.name == "native" and not compiler
                    else ""
                )
                found.append(
                    Finding(
                        NOTE, _("kernel {name}: cannot run here ({reason})", name=kernel.name, reason=reason), remedy
                    )
                )
            else:
                try:
                    found.append(Finding(GOOD, _("kernel {name}: usable", name=described(kernel))))
                except KernelError as error:
                    found.append(Finding(BAD, str(error), _("unset ITREX_CHAT_INSTRUCTIONS")))
        try:
            found.append(Finding(GOOD, _("engine native: works, with the kernel {name}", name=described(choose()))))
        except KernelError as error:
            if str(error) not in (finding.text for finding in found):
                found.append(Finding(BAD, str(error), _("unset ITREX_CHAT_KERNEL")))
        return found

    def install(self, python: str | None) -> str:
        raise RecipeError(
            _("--install and --python are for --engine itrex; the native engine is installed with this program.")
        )

    def kept(self, home: Path) -> list[Kept]:
        return []


def _budget_lines(manifest: dict) -> list[str]:
    """What a budget was spent on: which matrices of the blocks became what, by the last part of their names."""
    if not (told := manifest.get("budget")):
        return []
    found: dict[str, Counter[str]] = {}
    modules = [name.removesuffix(".weight").removesuffix(".qweight") for name in manifest["tensors"]]
    for name in dict.fromkeys(name for name in modules if name.startswith("model.layers.") and name.endswith("_proj")):
        bits, group_size, *_zeros = manifest["matrices"].get(name, (16, 0))
        kind = f"INT{bits} G{group_size}" if group_size else _("as it was")
        found.setdefault(name.rpartition(".")[2], Counter())[kind] += 1
    return [
        _(
            "The budget of {budget:g} bits per weight of the blocks was spent to {reached:.3f}, by what each matrix costs on "
            "{tokens} tokens; as far as that tells, {share:.2f} × of what 4 bits in groups of 32 lose everywhere.",
            budget=told["bits"],
            reached=told["reached"],
            tokens=told["tokens"],
            share=told["expected"] / told["uniform"] if told["uniform"] else 0.0,
        ),
        *(
            f"  {name}: " + ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items()))
            for name, kinds in found.items()
        ),
    ]


ENGINE = NativeEngine()
