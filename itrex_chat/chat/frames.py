"""How a tokenizer's process is talked to: JSON, with its length in bytes before it."""

import struct

REQUEST = struct.Struct("<QIQ")  # length; seconds of processor time and bytes of memory that the reply may take
REPLY = struct.Struct("<Q")  # length
