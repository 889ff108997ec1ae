# Targets: make help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
FEDERATED := .venv-federated
CLUSTER := .venv-cluster
LABEL := .venv-label
DEPLOY := .venv-deploy
DICOMWEB := .dicomweb
DEMO := demo
DATA := $(DEMO)/Task99_Phantom
TASK := configs/tasks/Task99_Phantom_3d.json
RUN := --prepared_dir ../$(DEMO)/prepared --ckpt_dir ../$(DEMO)/models --output_dir ../$(DEMO)/run

.DEFAULT_GOAL := help
.PHONY: help install peers demo test test-attack test-clients test-cluster test-faults test-federated test-gpu test-peers test-slow lint format sbom template clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@# the DICOM standard as data, for tests; its dependencies only serve to read the standard's web pages
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt dicom-standard
	@touch $@

install: $(BIN)/.installed ## create .venv with the pinned packages

$(PEERS)/.installed: peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint $< torch
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

peers: $(PEERS)/.installed ## create .venv-peers with the projects that the benchmarks compare with

demo: $(BIN)/.installed ## run all steps on synthetic data; takes minutes, needs no GPU
	$(BIN)/dynunet-bundle phantom --output_dir $(DATA) --num_cases 20 --num_test 4 --seed 0
	$(BIN)/dynunet-bundle plan --dataset_dir $(DATA)
	cd bundle && ../$(BIN)/python -m monai.bundle run training \
	    --config_file "['configs/train.json','$(TASK)','configs/quick.json']" \
	    --dataset_dir ../$(DATA) $(RUN) --epochs 5 --iterations_per_epoch 40 --val_interval 1 --restart True
	cd bundle && ../$(BIN)/python -m monai.bundle run evaluating \
	    --config_file "['configs/train.json','configs/evaluate.json','$(TASK)','configs/quick.json']" \
	    --dataset_dir ../$(DATA) $(RUN)
	$(BIN)/dynunet-bundle predict --input $(DATA)/imagesTs --output_dir $(DEMO)/predictions \
	    --model $(DEMO)/models/model.pt
	@echo "Test cases, not used in training:"
	$(BIN)/dynunet-bundle evaluate --predictions $(DEMO)/predictions --labels $(DATA)/labelsTs \
	    --label_names background head tail

test: $(BIN)/.installed ## run the test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report=term:skip-covered --durations=15 -m "not slow and not gpu and not clients and not peers and not federated and not cluster"

$(LABEL)/.installed: tests/clients/label-constraints.txt tests/clients/setup_label.sh
	bash tests/clients/setup_label.sh $(PYTHON) $(LABEL)
	@touch $@

$(DEPLOY)/.installed: constraints.txt tests/clients/deploy-requirements.txt tests/clients/setup_deploy.sh
	bash tests/clients/setup_deploy.sh $(PYTHON) $(DEPLOY)
	@touch $@

$(DICOMWEB)/.installed: tests/clients/setup_dicomweb.sh
	bash tests/clients/setup_dicomweb.sh $(PYTHON) $(DICOMWEB)
	@touch $@

test-clients: $(BIN)/.installed $(LABEL)/.installed $(DEPLOY)/.installed $(DICOMWEB)/.installed ## test packages in MONAI Label, with Orthanc, and MONAI Deploy
	$(BIN)/python -m pytest -m clients tests/clients

test-peers: $(BIN)/.installed $(PEERS)/.installed ## predict with exported models by nnU-Net itself; takes minutes
	$(BIN)/python -m pytest -m peers

# NVFlare, which .venv does not have; everything else comes from .venv, through the .pth file
$(FEDERATED)/.installed: federated-requirements.txt $(BIN)/.installed
	$(PYTHON) -m venv $(FEDERATED)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > $$($(FEDERATED)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth
	$(FEDERATED)/bin/python -m pip install --quiet --constraint constraints.txt --requirement $<
	@touch $@

test-federated: $(FEDERATED)/.installed ## train two sites together by NVFlare's simulator; takes minutes
	$(BIN)/python -m pytest -m federated

# Ray, which .venv does not have; everything else comes from .venv, through the .pth file
$(CLUSTER)/.installed: constraints.txt $(BIN)/.installed
	$(PYTHON) -m venv $(CLUSTER)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > $$($(CLUSTER)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/project.pth
	$(CLUSTER)/bin/python -m pip install --quiet --constraint constraints.txt ray
	@touch $@

test-cluster: $(CLUSTER)/.installed ## predict on two Ray nodes of this machine, kill workers and nodes; takes minutes
	$(BIN)/python -m pytest -m cluster tests/cluster

test-slow: $(BIN)/.installed ## run the slow tests
	$(BIN)/python -m pytest -m slow

test-faults: $(BIN)/.installed ## run the tests that kill processes, fill disks and damage files; prints a table
	$(BIN)/python -m pytest -m fault
	$(BIN)/python tests/faults/dicom_table.py --data ../shared/data

test-attack: $(BIN)/.installed ## attack the package with 5,000 hostile inputs; prints a table
	OMP_NUM_THREADS=1 $(BIN)/python tests/security/attack.py --count 5000 --folder build/attack

test-gpu: $(BIN)/.installed ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(BIN)/.installed ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sbom: $(BIN)/.installed ## write dist/sbom.json, the bill of materials
	$(BIN)/python scripts/sbom.py --out dist/sbom.json

template: $(BIN)/.installed ## regenerate metadata and model card of bundle/
	$(BIN)/dynunet-bundle package --refresh_template

format: $(BIN)/.installed ## format code and configs
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tests/helpers/config_layout.py

clean: ## remove the demo's files
	rm -rf $(DEMO)
