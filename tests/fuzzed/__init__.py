"""Cases for `fuzz_files.py`: a module for each kind of input, each with a `make` (`case.py`); the same number is the same case."""
