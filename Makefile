# make demo    train a small TGANv2 on rendered shapes, generate, export, score     (12 to 18 minutes on two cores with AVX2)
# make test    make lint, then make tests
# make tests   the tests, but for the slow ones
# make slow-tests  the slow ones: clusters, commands of the documents, benchmarks and others  (WORKSPACE.md)
# make lint    ruff and mypy
# make bench   speed and memory beside PyTorch, plain TensorFlow and plain scripts; hours  (benchmarks/speed/results.md)
# make clean   remove what the demo made and the caches of the tools; the environment stays
#
# make lock    resolve all requirements again and write constraints*.txt  (SECURITY.md)
#
# Each sets up .venv on its own when it is missing or when requirements, constraints, lane or Python version changed.
# PYTHON=/path/to/python chooses the interpreter, VENV=folder another place for the environment.
# Python 3.9 to 3.11 take the pinned lane (TensorFlow 2.15), Python 3.12 and 3.13 the current one (TensorFlow 2.21);
# LANE=current chooses the current lane on Python 3.10 and 3.11.

VENV ?= .venv
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11 python3.10 python3.9; do \
	"$$python" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && \
	echo "$$python" && break; done)
endif
PY := $(VENV)/bin/python
VERSION := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

LANE ?= $(if $(filter 3.12 3.13,$(VERSION)),current,pinned)
# The current lane by choice has files of its own; on Python 3.12 and 3.13 it is in the default ones.
SUFFIX := $(if $(filter current-3.10 current-3.11,$(LANE)-$(VERSION)),-current)
CONSTRAINTS := constraints$(SUFFIX).txt
BASE := requirements$(SUFFIX).txt
EXTRAS := requirements-benchmarks.txt requirements-explore.txt requirements-ray.txt requirements-dev.txt
LOCKED := requirements-explore.txt requirements-ray.txt requirements-fvd.txt requirements-gpu.txt \
	requirements-benchmarks.txt requirements-peers.txt requirements-dev.txt
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

# A stamp is the last thing that an installation writes, and its name holds what was installed.
stamp = $(VENV)/.$(1)-$(LANE)-$(VERSION)-$(firstword $(shell cat $(CONSTRAINTS) $(2) | cksum))
RUNTIME := $(call stamp,runtime,$(BASE))
DEV := $(call stamp,dev,$(BASE) $(EXTRAS))
PEERS := $(call stamp,peers,$(BASE) requirements-peers.txt)

.PHONY: demo test tests slow-tests bench lint lock clean
.DELETE_ON_ERROR:

SCORE = $(PY) -m tganv2_tf.evaluate --data_dir=demo/data/train --classifier=demo/classifier.npz --num_samples=1000 \
	--repetitions=3 --cache_dir=demo/cache

# Operations on so small a network take longer if two threads share each: two operations at a time are faster.
demo: opencv
	$(PY) -m data_prep.moving_shapes --output_dir=demo/moving_shapes
	for split in train test; do \
		$(PY) -m data_prep.ucf101 --video_dir=demo/moving_shapes/videos --split_dir=demo/moving_shapes/ucfTrainTestlist \
			--split=$$split --fold=1 --output_dir=demo/data/$$split --resolution=32 || exit 1; \
	done
	TF_NUM_INTRAOP_THREADS=1 $(PY) -m tganv2_tf.train --flagfile=demo.flags --data_dir=demo/data/train --model_dir=demo/run
	$(PY) -m tganv2_tf.generate --model_dir=demo/run --seeds=0-48 --scale=2 --output=demo/samples.gif
	$(PY) -m tganv2_tf.generate --model_dir=demo/run --seeds=0-11 --scale=2 --output=demo/samples.png
	$(PY) -m tganv2_tf.export --model_dir=demo/run --output_dir=saved_models/demo
	$(PY) -m tganv2_tf.train_classifier --data_dir=demo/data/train --test_data_dir=demo/data/test --steps=500 --output=demo/classifier.npz
	@echo && echo "Real videos that nothing was trained on:"
	$(SCORE) --clips_dir=demo/data/test --output=demo/scores/real.json
	@echo && echo "The generator before its training:"
	$(SCORE) --model_dir=demo/run --untrained --repetitions=1 --output=demo/scores/untrained.json
	@echo && echo "The generator:"
	$(SCORE) --model_dir=demo/run --output=demo/scores/trained.json
	@echo
	@echo "Generated videos   demo/samples.gif, frame by frame in demo/samples.png"
	@echo "Trained model      demo/run"
	@echo "SavedModel         saved_models/demo"
	@echo "Training videos    demo/moving_shapes/videos"
	@echo "Scores             demo/scores"
	@echo "TensorBoard        $(VENV)/bin/tensorboard --logdir demo/run"

test: lint tests

tests: opencv $(DEV)
	$(PY) -m pytest

# CI runs them, too.
slow-tests: opencv $(DEV)
	$(PY) -m pytest -m slow

bench: opencv $(PEERS)
	$(PY) -m benchmarks.speed.bench --output_dir=bench $(if $(wildcard demo/data/train/manifest.json),--data_dir=demo/data/train \
		$(if $(wildcard demo/classifier.npz),--classifier=demo/classifier.npz))

lint: $(DEV)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

clean:
	rm -rf demo saved_models/demo .pytest_cache .mypy_cache .ruff_cache
	find tganv2_tf data_prep benchmarks examples tests -name __pycache__ -prune -exec rm -rf {} +

# `make lock UPGRADE=` keeps what is locked, as far as a changed pin allows.
UPGRADE ?= --upgrade
lock: $(DEV)
	$(PY) -m uv pip compile --quiet --no-annotate --universal $(UPGRADE) --custom-compile-command='make lock' \
		--python-version=3.9 --output-file=constraints.txt requirements.txt $(LOCKED)
	$(PY) -m uv pip compile --quiet --no-annotate --universal $(UPGRADE) --custom-compile-command='make lock' \
		--python-version=3.10 --output-file=constraints-current.txt requirements-current.txt $(LOCKED)

$(RUNTIME): | supported
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/.by-make ]; then \
		echo "make: $(VENV) was not set up by this Makefile and stays as it is; make VENV=folder takes another place" >&2; \
		exit 1; \
	fi
	@echo "Setting up $(VENV): $(LANE) lane, Python $(VERSION), $(BASE), $(CONSTRAINTS); about 2.5 GB, some minutes"
	@mkdir -p $(VENV) && touch $(VENV)/.by-make
	@find $(VENV) -mindepth 1 -maxdepth 1 ! -name .by-make -exec rm -rf {} +
	@"$(PYTHON)" -m venv $(VENV)
	@$(INSTALL) --requirement $(BASE)
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Adding $(EXTRAS)"
	@rm -f $(VENV)/.dev-*
	@$(INSTALL) $(addprefix --requirement ,$(BASE) $(EXTRAS))
	@touch $@

$(PEERS): $(DEV)
	@echo "Adding requirements-peers.txt"
	@rm -f $(VENV)/.peers-*
	@$(INSTALL) --requirement requirements-peers.txt
	@touch $@

.PHONY: supported opencv
opencv: $(RUNTIME)
	@$(PY) -c 'import cv2' || { \
		echo "make: OpenCV does not load; Debian and Ubuntu have what it needs: apt-get install libgl1 libglib2.0-0" >&2; \
		exit 1; \
	}

supported:
	@case "$(LANE)-$(VERSION)" in \
		pinned-3.9|pinned-3.10|pinned-3.11|current-3.10|current-3.11|current-3.12|current-3.13) ;; \
		pinned-|current-) echo "make: Python 3.9 to 3.13 is needed and not found$(if $(PYTHON), as $(PYTHON)); make PYTHON=/path/to/python names it" >&2; exit 1 ;; \
		pinned-3.12|pinned-3.13) echo "make: LANE=pinned needs Python 3.9 to 3.11; $(PYTHON) is $(VERSION)" >&2; exit 1 ;; \
		current-3.9) echo "make: LANE=current needs Python 3.10 to 3.13; $(PYTHON) is $(VERSION)" >&2; exit 1 ;; \
		pinned-*|current-*) echo "make: Python 3.9 to 3.13 is needed; $(PYTHON) is $(VERSION); make PYTHON=/path/to/python names another" >&2; exit 1 ;; \
		*) echo "make: LANE=$(LANE): valid: pinned, current" >&2; exit 1 ;; \
	esac
