# make demo    train a small TGANv2 on rendered shapes, generate, export, score     (about 13 minutes on two cores)
# make test    make lint, then every test
# make lint    ruff and mypy
# make bench   speed and memory beside PyTorch, plain TensorFlow and plain scripts; hours  (benchmarks/results.md)
# make clean   remove what the demo made and the caches of the tools; the environment stays
#
# Each sets up .venv on its own when it is missing or when the pins or the Python version changed.
# PYTHON=/path/to/python chooses the interpreter, VENV=folder another place for the environment.

VENV ?= .venv
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.11 python3.10 python3.9; do \
	"$$python" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null && \
	echo "$$python" && break; done)
endif
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --requirement

# A stamp is the last thing that an installation writes, and its name holds what was installed.
VERSION := $(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
RUNTIME := $(VENV)/.runtime-$(VERSION)-$(firstword $(shell cksum < requirements.txt))
DEV := $(VENV)/.dev-$(VERSION)-$(firstword $(shell cat requirements.txt requirements-benchmarks.txt requirements-explore.txt requirements-ray.txt requirements-dev.txt | cksum))

PEERS := $(VENV)/.peers-$(VERSION)-$(firstword $(shell cat requirements.txt requirements-peers.txt | cksum))

.PHONY: demo test bench lint clean
.DELETE_ON_ERROR:

SCORE = $(PY) -m tganv2_tf.evaluate --data_dir=demo/data/train --classifier=demo/classifier.npz --num_samples=1000 \
	--repetitions=3 --cache_dir=demo/cache

demo: opencv
	$(PY) -m data_prep.moving_shapes --output_dir=demo/moving_shapes
	for split in train test; do \
		$(PY) -m data_prep.ucf101 --video_dir=demo/moving_shapes/videos --split_dir=demo/moving_shapes/ucfTrainTestlist \
			--split=$$split --fold=1 --output_dir=demo/data/$$split --resolution=32 || exit 1; \
	done
	$(PY) -m tganv2_tf.train --flagfile=demo.flags --data_dir=demo/data/train --model_dir=demo/run
	$(PY) -m tganv2_tf.generate --model_dir=demo/run --seeds=0-48 --scale=2 --output=demo/samples.gif
	$(PY) -m tganv2_tf.generate --model_dir=demo/run --seeds=0-11 --scale=2 --output=demo/samples.png
	$(PY) -m tganv2_tf.export --model_dir=demo/run --output_dir=saved_models/demo
	$(PY) -m tganv2_tf.train_classifier --data_dir=demo/data/train --test_data_dir=demo/data/test --output=demo/classifier.npz
	@echo && echo "Real videos that nothing was trained on:"
	$(SCORE) --clips_dir=demo/data/test --output=demo/scores/real.json
	@echo && echo "The generator before its training:"
	$(SCORE) --model_dir=demo/run --untrained --output=demo/scores/untrained.json
	@echo && echo "The generator:"
	$(SCORE) --model_dir=demo/run --output=demo/scores/trained.json
	@echo
	@echo "Generated videos   demo/samples.gif, frame by frame in demo/samples.png"
	@echo "Trained model      demo/run"
	@echo "SavedModel         saved_models/demo"
	@echo "Training videos    demo/moving_shapes/videos"
	@echo "Scores             demo/scores"
	@echo "TensorBoard        $(VENV)/bin/tensorboard --logdir demo/run"

test: opencv lint
	$(PY) -m pytest

bench: opencv $(PEERS)
	$(PY) -m benchmarks.bench --output_dir=bench $(if $(wildcard demo/data/train/manifest.json),--data_dir=demo/data/train \
		$(if $(wildcard demo/classifier.npz),--classifier=demo/classifier.npz))

lint: $(DEV)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

clean:
	rm -rf demo saved_models/demo .pytest_cache .mypy_cache .ruff_cache
	find tganv2_tf data_prep benchmarks examples tests -name __pycache__ -prune -exec rm -rf {} +

$(RUNTIME): | supported
	@if [ -e $(VENV) ] && [ ! -e $(VENV)/.by-make ]; then \
		echo "make: $(VENV) was not set up by this Makefile and stays as it is; make VENV=folder takes another place" >&2; \
		exit 1; \
	fi
	@echo "Setting up $(VENV) with Python $(VERSION) and requirements.txt: about 2.5 GB, some minutes"
	@mkdir -p $(VENV) && touch $(VENV)/.by-make
	@find $(VENV) -mindepth 1 -maxdepth 1 ! -name .by-make -exec rm -rf {} +
	@"$(PYTHON)" -m venv $(VENV)
	@$(INSTALL) requirements.txt
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Adding requirements-dev.txt"
	@rm -f $(VENV)/.dev-*
	@$(INSTALL) requirements-dev.txt
	@touch $@

$(PEERS): $(DEV)
	@echo "Adding requirements-peers.txt"
	@rm -f $(VENV)/.peers-*
	@$(INSTALL) requirements-peers.txt
	@touch $@

.PHONY: supported opencv
opencv: $(RUNTIME)
	@$(PY) -c 'import cv2' || { \
		echo "make: OpenCV does not load; Debian and Ubuntu have what it needs: apt-get install libgl1 libglib2.0-0" >&2; \
		exit 1; \
	}

supported:
	@case "$(VERSION)" in \
		3.9|3.10|3.11) ;; \
		"") echo "make: Python 3.9, 3.10 or 3.11 is needed and not found$(if $(PYTHON), as $(PYTHON)); make PYTHON=/path/to/python names it" >&2; exit 1 ;; \
		*) echo "make: Python 3.9, 3.10 or 3.11 is needed; $(PYTHON) is $(VERSION); make PYTHON=/path/to/python names another" >&2; exit 1 ;; \
	esac
