# The last layers of every image: flowparts with its components on an environment, so that a change of code moves
# nothing else. The context is the repository.
ARG ENVIRONMENT=flowparts/flowparts-base:environment

FROM ${ENVIRONMENT} AS code
USER 0
COPY src/flowparts /opt/flowparts/code/flowparts
COPY components /opt/flowparts/code/flowparts/components
RUN python -m compileall -q --invalidation-mode unchecked-hash /opt/flowparts/code

FROM ${ENVIRONMENT}
COPY --from=code /opt/flowparts/code /opt/flowparts/code
ARG TITLE=flowparts
ARG VERSION=0.1.0
ARG SOURCE=
ARG BASE_IMAGE=
ARG GIT_COMMIT=unknown
ARG REGISTRY=flowparts
LABEL org.opencontainers.image.title=$TITLE \
    org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.source=$SOURCE \
    org.opencontainers.image.base.name=$BASE_IMAGE \
    org.opencontainers.image.revision=$GIT_COMMIT
# A step that deploys takes the server's image from where its own image comes from.
ENV FLOWPARTS_GIT_COMMIT=$GIT_COMMIT \
    FLOWPARTS_REGISTRY=$REGISTRY \
    FLOWPARTS_IMAGE_VERSION=$VERSION
