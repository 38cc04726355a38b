# The environment of every image: the packages of containers/IMAGE on top of its parent's. The context is containers/.
# An image that needs more than packages has a stage of its name here; the others end at the stage `environment`.
ARG BASE_IMAGE
ARG PARENT_IMAGE=${BASE_IMAGE}

FROM ${BASE_IMAGE} AS build
COPY install.sh packages.sh /build/
# The same for every image, so it is made once: IMAGE must not be known yet.
RUN /build/install.sh
ARG IMAGE
COPY ${IMAGE}/requirements* /build/${IMAGE}/
ARG VARIANT=
RUN --mount=type=cache,target=/root/.cache/pip /build/install.sh "/build/$IMAGE" "$VARIANT"

FROM ${PARENT_IMAGE} AS environment
COPY --from=build /opt/flowparts /opt/flowparts

# One model server for every target: `docker run -v DIR:/mnt/models -p 8080:8080 flowparts-serving`.
FROM environment AS serving
COPY serving/entrypoint.sh /opt/flowparts/serve
EXPOSE 8080 8081
# A container is reached from outside.
ENV FLOWPARTS_SERVING_HOST=0.0.0.0
# Lets SageMaker choose the port.
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
ENTRYPOINT ["/opt/flowparts/serve"]
CMD ["serve"]

# HAProxy splits requests on a Docker host.
FROM ${PARENT_IMAGE} AS deploy
USER 0
RUN --mount=type=bind,source=packages.sh,target=/build/packages.sh /build/packages.sh haproxy \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
COPY --from=build /opt/flowparts /opt/flowparts
USER 65532:0

FROM ${BASE_IMAGE} AS base
# OpenMP's runtime, which LightGBM loads, is here so that images built from this one run no package manager.
# pip is removed: nothing is installed when a step runs.
RUN --mount=type=bind,source=packages.sh,target=/build/packages.sh /build/packages.sh libgomp1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
        /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip \
        /usr/lib/python3/dist-packages/pip /usr/lib/python3*/ensurepip
COPY --from=build /opt/flowparts /opt/flowparts
# HOME is writable for any user on a read-only root, with a volume there. kfp is here as a runtime only. Python
# imports from no folder that a step writes to: neither where it was started nor below HOME.
ENV PATH=/opt/flowparts/bin:$PATH \
    PYTHONPATH=/opt/flowparts/code \
    PYTHONSAFEPATH=1 \
    PYTHONNOUSERSITE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1 \
    HOME=/tmp \
    _KFP_RUNTIME=true \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can tell it isn't root; OpenShift takes another one.
USER 65532:0
WORKDIR /opt/flowparts
CMD ["python", "-m", "flowparts.selfcheck"]
