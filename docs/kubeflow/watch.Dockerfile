# What runs `submit.py watch` on a cluster; see docs/monitoring.md. The context is a checkout; `make watch-image`
# gives the Python image that the other images start from.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}
# uv has certificates of its own, which don't include those that the machine trusts.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PATH=/opt/watch/bin:$PATH
WORKDIR /opt/flowparts
COPY bootstrap.txt requirements.txt ./
RUN python3 -m venv /opt/watch && pip install --no-cache-dir --require-hashes -r bootstrap.txt
COPY pyproject.toml README.md LICENSE submit.py ./
COPY src src
COPY components components
COPY pipelines pipelines
COPY backends backends
COPY tools tools
COPY containers containers
RUN uv pip install --python /opt/watch/bin/python --no-cache -c requirements.txt '.[base,tools]' packaging
USER 65532:0
ENV HOME=/tmp PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "submit.py"]
