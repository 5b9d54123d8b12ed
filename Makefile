# make demo: quantize the embedded model, ask FP32 and INT4, measure, compare.
# make test: run the tests. Both set everything up in .venv first.
# make check: the formatter, the linter and the type checker; they change nothing.
# make lower: the lower ends of setup.cfg's ranges, in an environment of their own (build/lower), and the tests that use them most.
# make lock: write what is installed in .venv into requirements.lock.
# make fuzz: 20,000 random cases of the native kernels under sanitizers (needs a C compiler only; CASES says how many).
# TORCH_INDEX chooses where torch comes from, PYTHON which interpreter makes .venv.

RUN = .venv/bin/python

.PHONY: demo test check lower lock fuzz clean

demo: .venv/.installed
	$(RUN) -m itrex_chat.quantize --model smollm2-135m
	$(RUN) -m itrex_chat.ask --model smollm2-135m --variants fp32,int4
	$(RUN) -m itrex_chat.measure
	$(RUN) -m itrex_chat.compare

test: .venv/.installed
	$(RUN) -m pytest

check: .venv/.installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# torch is the lock's also here: other builds for Linux bring gigabytes of CUDA.
LOWER_TESTS = tests/test_artifacts.py tests/test_charts.py tests/test_chat.py tests/test_chatbot.py tests/test_checkpoints.py \
	tests/test_decoder.py tests/test_gate.py tests/test_generation.py tests/test_golden.py tests/test_hubs.py \
	tests/test_packaging.py tests/test_quantization.py tests/test_recipes.py tests/test_sheet.py
lower:
	mkdir -p build
	sh .ci/lower_ends > build/lower.txt
	ENVIRONMENT=build/lower LOCK=build/lower.txt EXTRAS=test sh setup.sh
	build/lower/bin/python -m pytest $(LOWER_TESTS)

lock: .venv/.installed
	{ sed -n '/^#/p' requirements.lock; $(RUN) -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

CASES = 20000
fuzz:
	python3 tests/fuzzing.py $(CASES)

SOURCES = $(wildcard itrex_chat/native/*.c itrex_chat/native/*.h)

.venv/.installed: setup.cfg requirements.lock setup.py pyproject.toml setup.sh $(SOURCES)
	@sh setup.sh

clean:
	rm -rf .venv build *.egg-info
