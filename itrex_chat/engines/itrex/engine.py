"""The engine "itrex": intel-extension-for-transformers itself, in an environment of its own."""

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.engines.finding import BAD, GOOD, NOTE, Finding
from itrex_chat.engines.memory import Memory
from itrex_chat.foundation import in_use
from itrex_chat.foundation.errors import EngineError, UnknownArchitecture
from itrex_chat.foundation.kept import Kept
from itrex_chat.foundation.language import _
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import ITREX, Variant

if TYPE_CHECKING:
    from itrex_chat.engines.itrex.session import ItrexSession
    from itrex_chat.engines.on_disk import OnDisk


class ItrexEngine:
    """FP32, INT4 and INT8 of the architectures that ITREX 1.4.2 knows."""

    name = ITREX
    gives_logits = False
    batches = False

    def check(self, variant: Variant) -> None:
        from itrex_chat.engines.itrex.session import check

        check(variant.precision)

    def on_disk(
        self, recipe: Recipe, variant: Variant, options: EngineOptions, trusted: dict[str, str] | None = None
    ) -> "OnDisk":
        from itrex_chat import sources
        from itrex_chat.engines import on_disk
        from itrex_chat.engines.itrex.foreign import explained

        _check_cache(recipe, variant)
        try:
            if variant.bits:
                return on_disk.of_artifact(variant.applied_to(recipe), trusted=trusted)
            return on_disk.of_checkpoint(recipe)
        except UnknownArchitecture as error:
            if options.trust_remote_code:
                return on_disk.OnDisk(unread_bytes=sources.resolve(recipe).size())
            raise type(error)(explained(recipe, error)) from None

    def memory(self, found: "OnDisk", recipe: Recipe, variant: Variant, tokens: int) -> Memory:
        from itrex_chat.engines.itrex.memory import needed, unknown_model

        if found.decoder is None:
            return Memory(unknown_model(found.unread_bytes))
        return Memory(needed(found.decoder, variant.precision, tokens))

    def load(
        self,
        recipe: Recipe,
        variant: Variant,
        home: Path | None = None,
        options: EngineOptions = EngineOptions(),
        trusted: dict[str, str] | None = None,
        needed: int | None = None,
        batch: int = 1,
    ) -> "ItrexSession":
        from itrex_chat.engines.itrex.session import load

        _check_cache(recipe, variant)
        return load(recipe, variant, home, options, trusted)

    def quantize(self, recipe: Recipe, refresh: bool = False) -> str:
        from itrex_chat.artifacts.obtaining import obtain
        from itrex_chat.engines.itrex.quantized import sentences
        from itrex_chat.engines.itrex.saved import obtain as obtain_saved

        started = time.perf_counter()
        if refresh:
            obtain(recipe, refresh=True)
        found = obtain_saved(recipe)
        lines = [*found.saved.log, *(f"{found.artifact.name}: {line}" for line in sentences(found.saved))]
        lines.append(
            _(
                "From the cache, in {seconds:.2f} s: {folder}",
                seconds=time.perf_counter() - started,
                folder=found.artifact.folder,
            )
            if found.cached
            else _(
                "Later starts of ITREX quantize nothing: its layers are filled from {folder}",
                folder=found.artifact.folder,
            )
        )
        return "\n".join(lines)

    def told(self, facts: dict) -> list[str]:
        from itrex_chat.engines.itrex.quantized import Saved, sentences

        saved = Saved.from_record(facts.get("saved"))
        return sentences(saved) if saved else []

    def build_seconds(self, facts: dict) -> float | None:
        return (facts["saved"] or {}).get("build_seconds")

    def examine(self, tried: bool) -> list[Finding]:
        from itrex_chat.engines.itrex import environment

        try:
            found = environment.check() if tried else environment.find()
        except EngineError as error:
            text = str(error).replace(environment.INSTALL, "").rstrip(" :：")
            return [Finding(BAD if tried else NOTE, _("engine itrex: {reason}", reason=text), environment.INSTALL)]
        return [
            Finding(
                GOOD,
                _(
                    "engine itrex: {versions}, Python {python}, in {path}{whose}",
                    path=found.python,
                    python=found.facts["python"],
                    whose=_(" (your own environment)") if found.adopted else "",
                    versions=", ".join(f"{name} {number}" for name, number in found.facts["versions"].items()),
                ),
            )
        ]

    def install(self, python: str | None) -> str:
        from itrex_chat.engines.itrex import environment

        found = environment.install(python)
        return _("ITREX {version} works: {python}", version=found.version, python=found.python)

    def kept(self, home: Path) -> list[Kept]:
        from itrex_chat.engines.itrex import environment, leftovers

        needed = _("ITREX's variants need it; it is prepared again when it is missing")
        found = [
            Kept(
                "prepared",
                view.name,
                view,
                functools.partial(leftovers.remove, view),
                text=_("prepared for ITREX"),
                needed=needed,
                names=(view.name.rpartition("-")[0],),
            )
            for view in leftovers.views(home)
        ]
        found += [
            Kept(
                "prepared",
                record.stem,
                record,
                functools.partial(leftovers.forget, record),
                text=_("quantized by ITREX"),
                needed=needed,
                names=(record.stem.partition("-int")[0],),
                beside=(leftovers.own(record),),
            )
            for record in leftovers.saved(home)
        ]
        if (folder := environment.folder()).is_dir():
            found.append(
                Kept(
                    "environments",
                    "itrex",
                    folder,
                    environment.remove,
                    text=_("ITREX's environment"),
                    needed=_("ITREX's variants need it; made again by {command}", command=environment.INSTALL),
                )
            )
        if (logs := home / "itrex" / "logs").is_dir():
            remove = functools.partial(in_use.discard_unused, logs, EngineError)
            found.append(Kept("logs", "itrex-logs", logs, remove, text=_("what ITREX printed")))
        return found


def _check_cache(recipe: Recipe, variant: Variant) -> None:
    """Raise EngineError where keys and values shall be kept in a format that is not this engine's to choose."""
    if (kept := variant.cache_format(recipe)) != "fp32":
        raise EngineError(
            _(
                "{variant} cannot keep keys and values in {format}: ITREX has its own memory for them. Leave out "
                "kv_cache, or ask the native engine.",
                variant=variant.title,
                format=kept,
            )
        )


ENGINE = ItrexEngine()
