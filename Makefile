# make demo: quantize the embedded model, ask FP32 and INT4, measure, compare.
# make test: run the tests. Both set everything up in .venv first.
# TORCH_INDEX chooses where torch comes from, PYTHON which interpreter makes .venv.

RUN = .venv/bin/python

.PHONY: demo test clean

demo: .venv/.installed
	$(RUN) -m itrex_chat.quantize --model smollm2-135m
	$(RUN) -m itrex_chat.ask --model smollm2-135m --variants fp32,int4
	$(RUN) -m itrex_chat.measure
	$(RUN) -m itrex_chat.compare

test: .venv/.installed
	$(RUN) -m pytest

SOURCES = $(wildcard itrex_chat/native/*.c itrex_chat/native/*.h)

.venv/.installed: setup.cfg setup.py pyproject.toml setup.sh $(SOURCES)
	@sh setup.sh

clean:
	rm -rf .venv build *.egg-info
