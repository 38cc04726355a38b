# The two commands: `make run` and `make test`. The rest is for those who change something.
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

# NAME=prepare/drop_outliers: the component and its test, from a template that passes every check.
new-component: .venv/installed
	$(BIN)/python -m tools.authoring new-component $(NAME)

# NAME=customer-churn.
new-pipeline: .venv/installed
	$(BIN)/python -m tools.authoring new-pipeline $(NAME)

# Lint, types, tests and contract rules of one component or pipeline, NAME=prepare/drop_outliers, without services.
check: .venv/installed
	$(BIN)/python -m tools.authoring check $(NAME)

compile: .venv/installed
	$(BIN)/python compile.py

# IMAGES="base sklearn" REGISTRY=registry.example/team VERSION=1.2.0 BASE_IMAGE=python:3.11-slim, each optional; the
# images start from the digest in containers/base-image, else.
SELECTED = $(IMAGES) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(VERSION),--version $(VERSION))

images: .venv/installed
	scripts/docker-engine.sh
	$(BIN)/python -m tools.images build $(SELECTED) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE))

# The image that runs `submit.py watch` on a cluster.
watch-image: .venv/installed
	scripts/docker-engine.sh
	$(BIN)/python -m tools.images build-watch $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE))

# ALLOW_STAND_IN=1 for images that were built without a container registry, to one on this machine.
push: images
	$(BIN)/python -m tools.images push $(SELECTED) $(if $(ALLOW_STAND_IN),--allow-stand-in)

# Start from what the Python image's tag names today.
pin: .venv/installed
	$(BIN)/python -m tools.images pin

# The images into a cluster on this machine: INTO=kind-flowparts, else where kubectl's context points to.
load: images
	$(BIN)/python -m tools.load $(IMAGES) $(if $(INTO),--into $(INTO))

# Kubeflow Pipelines in a kind cluster on this machine, with the images; PORT=8080 of its UI. Needs the internet.
kubeflow: images
	scripts/kubeflow.sh $(if $(PORT),--port $(PORT))

# Every pipeline on the Kubeflow Pipelines at ENDPOINT=http://localhost:8080, whose nodes have the images or pull
# them from REGISTRY. NAMESPACE= and TOKEN= where it serves many users; with TRACKING_URI= (an MLflow server) and
# S3=s3://BUCKET/FOLDER (with the secret S3_SECRET=bucket), both as steps reach them, also what needs these.
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

# The distribution for other repositories; its components run in REGISTRY's images, DIGESTS=build/images.json pins them.
wheel: .venv/installed
	$(BIN)/python -m tools.wheel $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(VERSION),--version $(VERSION)) $(if $(DIGESTS),--digests $(DIGESTS))

# Mutations of what strangers send, SECONDS=10 for each kind; what fails is kept in build/fuzz.
fuzz: .venv/installed
	$(BIN)/python tests/fuzz/mutate.py $(or $(SECONDS),10)

# Debian packages that only the tests need; a machine that has them is left alone.
system:
	scripts/system-packages.sh chromium:chromium chromedriver:chromium-driver openssl:openssl shellcheck:shellcheck \
	    prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager prometheus-pushgateway:prometheus-pushgateway

# tensorflow-serving-api asks for the plain tensorflow, beside which tensorflow-cpu would stand twice; jsonschema
# can do without rfc3987-syntax, whose grammar is built anew, for 1.5 s, wherever kfp is imported.
lock: .venv/installed
	$(BIN)/uv pip compile -q --no-config --generate-hashes --universal --python-version 3.11 --no-emit-package flowparts --no-emit-package tensorflow --no-emit-package rfc3987-syntax --no-emit-package lark --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements.txt
	echo uv | $(BIN)/uv pip compile -q --no-config --generate-hashes --universal --python-version 3.11 --no-deps -c requirements.txt --custom-compile-command "make lock" - -o bootstrap.txt
	$(BIN)/python -m tools.images lock
	for file in benchmarks/requirements-*.in scripts/requirements-*.in; do $(BIN)/uv pip compile -q --no-config --generate-hashes --python-version 3.11 --custom-compile-command "make lock" $$file -o $${file%.in}.txt; done

# The catalogue as a site in build/site, with pictures of the reports in runs/.
docs: .venv/installed system
	$(BIN)/python run.py tabular-training
	$(BIN)/python run.py tabular-training -p source=sample://diabetes -p task=regression -p model_name=diabetes
	$(BIN)/python run.py batch-prediction
	$(BIN)/python -m tools.site $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(VERSION),--version $(VERSION)) $(if $(DIGESTS),--digests $(DIGESTS))

# The messages of the Open Inference Protocol, from src/flowparts/serving/open_inference.proto.
proto: .venv/installed
	$(BIN)/python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src src/flowparts/serving/open_inference.proto

# The Grafana dashboard and a PrometheusRule for Kubernetes, to build/monitoring.
dashboards: .venv/installed
	$(BIN)/python -m tools.dashboards

# A model served on Docker drifts, an alert fires, a better one takes its place: a page in build/demo-monitoring.
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

# CASES="train feed" measures some of it again.
bench-keras: .venv/installed
	scripts/system-packages.sh wrk:wrk
	$(BIN)/python benchmarks/networks/measure.py $(CASES)

bench-containers: images
	PYTHONPATH=. $(BIN)/python benchmarks/bench_containers.py

# SETS="german flights" measures some of the tables.
bench-real: .venv/installed
	$(BIN)/python benchmarks/real/sets.py build/real
	$(BIN)/python benchmarks/real/measure.py build/real $(SETS)

# Ours beside boosting and AutoML: METHODS="quick flaml" SETS="german adult" SECONDS=30 of AutoML, CORE=1 to pin them.
# What is measured stays in build/accuracy and isn't measured again.
bench-accuracy: .venv/installed $(addprefix .venv-bench/,$(addsuffix /installed,flaml h2o autogluon))
	scripts/system-packages.sh java:default-jre-headless
	$(BIN)/python benchmarks/real/sets.py build/real
	$(BIN)/python benchmarks/accuracy/measure.py build/real $(if $(SETS),--sets $(SETS)) $(if $(METHODS),--methods $(METHODS)) \
	    $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CORE),--core $(CORE))

# SECONDS=4 a measurement; SOAK=10 only holds 80 % of our capacity for ten minutes.
bench-serving: .venv/installed $(addprefix .venv-bench/,$(addsuffix /installed,mlserver kserve litserve bentoml asgi))
	scripts/system-packages.sh wrk:wrk
	$(BIN)/python benchmarks/serving/bench.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SOAK),--soak-minutes $(SOAK))

# ROWS=5000000 compares larger tables; without their environments the peers are left out.
bench-monitoring: .venv/installed .venv-bench/evidently/installed .venv-bench/nannyml/installed
	$(BIN)/python benchmarks/monitoring/compare.py $(or $(ROWS),500000)
	$(BIN)/python benchmarks/monitoring/power.py

bench-change-points: .venv/installed .venv-bench/river/installed
	$(BIN)/python benchmarks/monitoring/change_points.py

# ROC AUC estimated without labels beside the measured one and NannyML's estimate.
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
