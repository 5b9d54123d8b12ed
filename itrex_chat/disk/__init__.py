"""What lies on the disk: all that the cache keeps, what needs it, and freeing it."""

from itrex_chat.disk.gathering import everything

__all__ = ["everything"]
