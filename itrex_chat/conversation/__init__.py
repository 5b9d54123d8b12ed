"""A conversation in the terminal: its turns, the variants that answer, what is typed and what is shown."""
