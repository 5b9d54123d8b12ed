"""A small Llama with 16-bit weights of its own: its texts, its training, its files, and how well few bits keep it."""
