# What runs `submit.py watch` on a cluster; see docs/monitoring.md. The context is a checkout.
FROM python:3.11-slim
WORKDIR /opt/flowparts
COPY bootstrap.txt requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r bootstrap.txt
COPY pyproject.toml README.md LICENSE submit.py ./
COPY src src
COPY components components
COPY pipelines pipelines
COPY backends backends
COPY tools tools
COPY containers containers
RUN uv pip install --system --no-cache -c requirements.txt '.[base,tools]' packaging
USER 65532:0
ENV HOME=/tmp PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "submit.py"]
