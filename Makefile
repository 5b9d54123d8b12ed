# make demo: quantize the embedded model, ask FP32 and INT4, measure, compare; say how to talk to both in the browser.
# make test: run the tests. Both set everything up in .venv first.
# make check: the formatter, the linter and the type checker; they change nothing.
# make lower: the lower ends of setup.cfg's ranges, in an environment of their own (build/lower), and the tests that use them most.
# make lock: write what is installed in .venv into requirements.lock.
# make fuzz: 20,000 random cases of the native kernels, 20,000 of files and replies, and 4 times 500 schedules of answers, under
#   sanitizers (needs gcc; CASES and SCHEDULES say how many).
# make kills: kill quantize and ask at 20 random moments each (KILLS says how many), and ask on disks that become full.
# make clients: openai, langchain-openai, litellm, llm, Gradio and lm-evaluation-harness, in an environment of their own, against a server.
# make load: mixed load on a server for an hour (MINUTES says how long), with kills, and whether it is then what it was before.
# make machine-kills: a cluster of three nodes on this machine; a node, who asks, and the head are killed MACHINE_KILLS times each.
# make small-llama: train a small Llama for an hour, and compare INT4 with llama.cpp's formats of it (FOLDER takes it all; LLAMA_CPP
#   may name the folder of llama.cpp's programs, which else are compiled in the cache).
# make download-faults: DOWNLOADS downloads from a stand-in of both hubs with random faults; make download-rate: their rate beside
#   hf download and modelscope download.
# TORCH_INDEX chooses where torch comes from, PYTHON which interpreter makes .venv.

RUN = .venv/bin/python

.PHONY: demo test check lower lock fuzz kills machine-kills clients load small-llama download-faults download-rate clean

demo: .venv/.installed
	$(RUN) -m itrex_chat.quantize --model smollm2-135m
	$(RUN) -m itrex_chat.ask --model smollm2-135m --variants fp32,int4
	$(RUN) -m itrex_chat.measure
	$(RUN) -m itrex_chat.compare
	@echo
	@echo "Talk to both in the browser, at http://127.0.0.1:8000/ :"
	@echo "    $(RUN) -m itrex_chat.serve --model smollm2-135m --variants fp32,int4"

test: .venv/.installed
	$(RUN) -m pytest

check: .venv/.installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# torch is the lock's also here: other builds for Linux bring gigabytes of CUDA.
LOWER_TESTS = $(addprefix tests/test_,$(addsuffix .py,artifacts charts chat chatbot checkpoints compare decoder documents downloads gate \
	generation golden hub_answers hubs kernels other_caches packaging proxies quantization recipes report sheet))
lower:
	mkdir -p build
	sh .ci/lower_ends > build/lower.txt
	ENVIRONMENT=build/lower LOCK=build/lower.txt EXTRAS=test sh setup.sh
	build/lower/bin/python -m pytest $(LOWER_TESTS)

lock: .venv/.installed
	{ sed -n '/^#/p' requirements.lock; $(RUN) -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

CASES = 20000
SCHEDULES = 500
fuzz: .venv/.installed
	$(RUN) tests/fuzzing.py $(CASES)
	$(RUN) tests/fuzz_files.py $(CASES)
	$(RUN) tests/schedules.py build/schedules $(SCHEDULES) --sanitized

KILLS = 20
kills: .venv/.installed
	$(RUN) benchmarks/kills.py --kills $(KILLS)

clients: .venv/.installed
	$(RUN) tests/clients/run.py

MINUTES = 60
load: .venv/.installed
	$(RUN) benchmarks/load.py --minutes $(MINUTES)

MACHINE_KILLS = 10
machine-kills: .venv/.installed
	ITREX_CHAT_KILLS=$(MACHINE_KILLS) $(RUN) -m pytest tests/test_machines.py

FOLDER = build/small-llama
LLAMA_CPP =
PROGRAMS = $(if $(LLAMA_CPP),--llama-cpp $(LLAMA_CPP))
small-llama: .venv/.installed
	$(RUN) benchmarks/small_llama.py train $(FOLDER)
	$(RUN) benchmarks/small_llama.py compare $(FOLDER) $(PROGRAMS) > /dev/null
	$(RUN) benchmarks/small_llama.py speed $(FOLDER) $(PROGRAMS)

DOWNLOADS = 300
download-faults: .venv/.installed
	$(RUN) benchmarks/download_faults.py --downloads $(DOWNLOADS) --at-once 4

download-rate: .venv/.installed
	$(RUN) benchmarks/download_rate.py

SOURCES = $(wildcard itrex_chat/native/*.c itrex_chat/native/*.h)

.venv/.installed: setup.cfg requirements.lock setup.py pyproject.toml setup.sh $(SOURCES)
	@sh setup.sh

clean:
	rm -rf .venv build *.egg-info
