# `make run` and `make test` are enough to begin; the other targets are for developers.
PYTHON ?= python3
BIN := .venv/bin

run: .venv/installed
	$(BIN)/python run.py tabular-training

test: .venv/installed .venv-bench/kserve/installed system
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(MAKE) images || [ "$$CI" != true ]
	$(BIN)/pytest -n auto --dist loadfile

# Create a component and its test, NAME=prepare/drop_outliers, from a template that passes every check.
new-component: .venv/installed
	$(BIN)/python -m tools.authoring new-component $(NAME)

# Create a pipeline and its test, NAME=customer-churn.
new-pipeline: .venv/installed
	$(BIN)/python -m tools.authoring new-pipeline $(NAME)

# Lint, type-check and test one component or pipeline, NAME=prepare/drop_outliers, without starting services.
check: .venv/installed
	$(BIN)/python -m tools.authoring check $(NAME)

compile: .venv/installed
	$(BIN)/python compile.py

# Build images: IMAGES="base sklearn" REGISTRY=registry.example/team VERSION=1.2.0 BASE_IMAGE=python:3.11-slim, each
# optional. By default they start from the digest in containers/base-image.
SELECTED = $(IMAGES) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(VERSION),--version $(VERSION))

images: .venv/installed
	scripts/docker-engine.sh
	$(BIN)/python -m tools.images build $(SELECTED) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE))

# Build the image that runs `submit.py watch` on a cluster.
watch-image: .venv/installed
	scripts/docker-engine.sh
	$(BIN)/python -m tools.images build-watch $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE))

# ALLOW_STAND_IN=1 pushes images that were built without access to a container registry, to one on this machine.
push: images
	$(BIN)/python -m tools.images push $(SELECTED) $(if $(ALLOW_STAND_IN),--allow-stand-in)

# Pin the Python image to the current digest of its tag.
pin: .venv/installed
	$(BIN)/python -m tools.images pin

# Load the images into a cluster on this machine: INTO=kind-flowparts; default: the cluster of kubectl's context.
load: images
	$(BIN)/python -m tools.load $(IMAGES) $(if $(INTO),--into $(INTO))

# Install Kubeflow Pipelines with the images in a kind cluster on this machine; PORT=8080 for its UI. Needs the internet.
kubeflow: images
	scripts/kubeflow.sh $(if $(PORT),--port $(PORT))

# Run every pipeline on the Kubeflow Pipelines at ENDPOINT=http://localhost:8080, whose nodes have the images or pull
# them from REGISTRY. Multi-user installations need NAMESPACE= and TOKEN=. TRACKING_URI= (an MLflow server) and
# S3=s3://BUCKET/FOLDER (with the secret S3_SECRET=bucket), as steps reach them, add the tests that need them.
ifneq ($(TOKEN),)
test-cluster: export FLOWPARTS_TOKEN := $(TOKEN)
endif
test-cluster: .venv/installed
	$(if $(ENDPOINT),,$(error give the address of a Kubeflow Pipelines: make test-cluster ENDPOINT=http://localhost:8080))
	FLOWPARTS_TEST_ENDPOINT=$(ENDPOINT) FLOWPARTS_TEST_TRACKING_URI=$(TRACKING_URI) \
	    FLOWPARTS_TEST_S3=$(S3) FLOWPARTS_TEST_S3_SECRET=$(S3_SECRET) \
	    $(if $(NAMESPACE),FLOWPARTS_NAMESPACE=$(NAMESPACE)) \
	    $(if $(REGISTRY),FLOWPARTS_REGISTRY=$(REGISTRY)) $(if $(VERSION),FLOWPARTS_VERSION=$(VERSION)) \
	    $(if $(DIGESTS),FLOWPARTS_DIGESTS=$(DIGESTS)) $(BIN)/pytest -v tests/cluster

# Build the wheel for other repositories; its components run in REGISTRY's images, which DIGESTS=build/images.json pins.
wheel: .venv/installed
	$(BIN)/python -m tools.wheel $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(VERSION),--version $(VERSION)) $(if $(DIGESTS),--digests $(DIGESTS))

# Fuzz untrusted input, SECONDS=10 for each kind; failing inputs are kept in build/fuzz.
fuzz: .venv/installed
	$(BIN)/python tests/fuzz/mutate.py $(or $(SECONDS),10)

# Install Debian packages that only the tests need, if they are missing.
system:
	scripts/system-packages.sh chromium:chromium chromedriver:chromium-driver openssl:openssl shellcheck:shellcheck \
	    prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager prometheus-pushgateway:prometheus-pushgateway

# tensorflow-serving-api requires tensorflow, a second copy beside tensorflow-cpu. jsonschema works without
# rfc3987-syntax, whose grammar would be built in 1.5 s each time kfp is imported.
lock: .venv/installed
	$(BIN)/uv pip compile -q --no-config --generate-hashes --universal --python-version 3.11 --no-emit-package flowparts --no-emit-package tensorflow --no-emit-package rfc3987-syntax --no-emit-package lark --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements.txt
	echo uv | $(BIN)/uv pip compile -q --no-config --generate-hashes --universal --python-version 3.11 --no-deps -c requirements.txt --custom-compile-command "make lock" - -o bootstrap.txt
	$(BIN)/python -m tools.images lock
	for file in benchmarks/requirements-*.in scripts/requirements-*.in; do $(BIN)/uv pip compile -q --no-config --generate-hashes --python-version 3.11 --custom-compile-command "make lock" $$file -o $${file%.in}.txt; done

# Build the site with the catalogue in build/site, with pictures of the reports in runs/.
docs: .venv/installed system
	$(BIN)/python run.py tabular-training
	$(BIN)/python run.py tabular-training -p source=sample://diabetes -p task=regression -p model_name=diabetes
	$(BIN)/python run.py batch-prediction
	$(BIN)/python -m tools.site $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(VERSION),--version $(VERSION)) $(if $(DIGESTS),--digests $(DIGESTS))

# Generate the messages of the Open Inference Protocol from src/flowparts/serving/open_inference.proto.
proto: .venv/installed
	$(BIN)/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src src/flowparts/serving/open_inference.proto

# Write the Grafana dashboard and a PrometheusRule for Kubernetes to build/monitoring.
dashboards: .venv/installed
	$(BIN)/python -m tools.dashboards

# Demonstrate monitoring: a model served on Docker drifts, an alert fires, a better model replaces it; the page is in
# build/demo-monitoring.
demo-monitoring: .venv/installed system
	scripts/docker-engine.sh
	$(BIN)/python -m tools.images build serving deploy
	$(BIN)/python -m tools.demo

readme: .venv/installed
	$(BIN)/python -m tools.readme

# TFDV can't be installed everywhere; without it the table says so.
bench: .venv/installed .venv-bench/peers/installed
	-$(MAKE) .venv-bench/tfdv/installed
	$(BIN)/python benchmarks/bench.py $(if $(ROWS),--rows $(ROWS)) $(CASES)

# CASES="train feed" measures only these cases again.
bench-keras: .venv/installed
	scripts/system-packages.sh wrk:wrk
	$(BIN)/python benchmarks/networks/measure.py $(CASES)

bench-containers: images
	PYTHONPATH=. $(BIN)/python benchmarks/bench_containers.py

# SETS="german flights" measures only these data sets.
bench-real: .venv/installed
	$(BIN)/python benchmarks/real/sets.py build/real
	$(BIN)/python benchmarks/real/measure.py build/real $(SETS)

# Compare with boosting and AutoML: METHODS="quick flaml" SETS="german adult" SECONDS=30 for AutoML, CORE=1 to pin them.
# Results are kept in build/accuracy and not measured again.
bench-accuracy: .venv/installed $(addprefix .venv-bench/,$(addsuffix /installed,flaml h2o autogluon))
	scripts/system-packages.sh java:default-jre-headless
	$(BIN)/python benchmarks/real/sets.py build/real
	$(BIN)/python benchmarks/accuracy/measure.py build/real $(if $(SETS),--sets $(SETS)) $(if $(METHODS),--methods $(METHODS)) \
	    $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CORE),--core $(CORE))

# SECONDS=4 per measurement; SOAK=10 only runs at 80 % of our capacity for ten minutes.
bench-serving: .venv/installed $(addprefix .venv-bench/,$(addsuffix /installed,mlserver kserve litserve bentoml asgi))
	scripts/system-packages.sh wrk:wrk
	$(BIN)/python benchmarks/serving/bench.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SOAK),--soak-minutes $(SOAK))

# ROWS=5000000 compares larger tables.
bench-monitoring: .venv/installed .venv-bench/evidently/installed .venv-bench/nannyml/installed
	$(BIN)/python benchmarks/monitoring/compare.py $(or $(ROWS),500000)
	$(BIN)/python benchmarks/monitoring/power.py

bench-change-points: .venv/installed .venv-bench/river/installed
	$(BIN)/python benchmarks/monitoring/change_points.py

# Compare ROC AUC estimated without labels with the measured one and NannyML's estimate.
bench-estimates: .venv/installed .venv-bench/nannyml/installed
	$(BIN)/python benchmarks/real/sets.py build/real
	$(BIN)/python benchmarks/monitoring/estimate.py build/real

.venv-bench/%/installed: benchmarks/requirements-%.txt | .venv/installed
	$(PYTHON) -m venv --clear .venv-bench/$*
	$(BIN)/uv pip sync -q --compile-bytecode --require-hashes --python .venv-bench/$*/bin/python $<
	touch $@

.venv/installed: requirements.txt pyproject.toml
	PYTHON=$(PYTHON) scripts/system-packages.sh
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r bootstrap.txt
	$(BIN)/uv pip sync -q --compile-bytecode --require-hashes requirements.txt
	$(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	touch $@

.PHONY: watch-image run test check new-component new-pipeline fuzz compile images push pin load kubeflow test-cluster wheel system lock docs readme bench bench-keras bench-real bench-monitoring bench-change-points bench-estimates bench-accuracy bench-containers proto bench-serving dashboards demo-monitoring
