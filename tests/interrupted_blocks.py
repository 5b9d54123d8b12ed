"""Calibration that somebody interrupts."""

from itrex_chat.calibration import driver


def interrupt_each_block_once(monkeypatch) -> list[int]:
    """Each block ends in KeyboardInterrupt when it is begun first; the blocks that were begun, as they are."""
    begun, original = list[int](), driver.BlockWise._next_block

    def interrupted(self, bar):
        begun.append(self.number)
        if begun.count(self.number) == 1:
            raise KeyboardInterrupt
        original(self, bar)

    monkeypatch.setattr(driver.BlockWise, "_next_block", interrupted)
    return begun
