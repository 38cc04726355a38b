#!/bin/sh
# Set up Kubeflow Pipelines in a kind cluster on this machine, with the images of `make images`, and print its
# address. What is there already is left alone, so that it can be called again.
#
#   scripts/kubeflow.sh [--name NAME] [--port PORT] [--dry-run]
#   scripts/kubeflow.sh --delete [--name NAME] [--dry-run]
#
#   --name     name of the cluster (flowparts)
#   --port     port of the UI and the API on this machine's loopback address (8080)
#   --delete   remove the cluster with everything in it
#   --dry-run  print the commands instead of running them
set -eu

# Each tag with its commit, which fixes the content: Kubeflow Pipelines, and Argo Workflows, whose manifests it uses.
PIPELINES="2.17.0 4a3592cb2dd0a91a4652ab93893ec8beda1f3158"
ARGO="v4.0.5 0ab1452144d8f4d57c50b37ce50dad218868e950"
# Kubernetes 1.34, as kind 0.30 publishes it.
NODE=kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a
NODE_PORT=31380 # of the UI's service, inside the cluster

name=flowparts port=8080 dry_run="" delete=""

fail() {
    echo "error: $*" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --name | --port)
        [ -n "${2:-}" ] || fail "$1 needs a value"
        if [ "$1" = --name ]; then name=$2; else port=$2; fi
        shift
        ;;
    --dry-run) dry_run=1 ;;
    --delete) delete=1 ;;
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit
        ;;
    *) fail "unknown option $1; scripts/kubeflow.sh --help lists them" ;;
    esac
    shift
done
case $name in *[!a-z0-9-]* | -* | *-) fail "--name '$name' must consist of a-z, 0-9 and inner hyphens" ;; esac
case $port in *[!0-9]*) fail "--port '$port' must be a number" ;; esac
if [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
    fail "--port $port must be from 1 to 65535"
fi

cd "$(dirname "$0")/.."
context=kind-$name
sources=build/kubeflow-manifests
kustomize=$sources/pipelines/manifests/kustomize

run() {
    if [ -n "$dry_run" ]; then
        printf '+ %s\n' "$*"
    else
        "$@"
    fi
}

exists() {
    kind get clusters 2>/dev/null | grep -qx "$name"
}

# Check out a folder of a repository: its name here, its address, tag and commit, the folder.
check_out() {
    folder=$sources/$1
    [ "$(git -C "$folder" rev-parse HEAD 2>/dev/null)" = "$4" ] && return
    run rm -rf "$folder"
    run git clone --quiet --depth 1 --filter=blob:none --no-checkout --branch "$3" "$2" "$folder"
    [ -n "$dry_run" ] || [ "$(git -C "$folder" rev-parse HEAD)" = "$4" ] ||
        fail "the tag $3 of $2 is no longer the commit $4"
    run git -C "$folder" sparse-checkout set "$5"
    run git -C "$folder" checkout --quiet
}

if [ -z "$dry_run" ]; then
    for program in docker kind kubectl git; do
        command -v "$program" >/dev/null || fail "$program is not on the PATH; docs/kubeflow.md lists what is needed"
    done
    docker version >/dev/null 2>&1 || fail "no Docker engine answers; start one"
fi

if [ -n "$delete" ]; then
    if exists || [ -n "$dry_run" ]; then
        run kind delete cluster --name "$name"
    else
        echo "there is no cluster $name"
    fi
    exit
fi

if exists; then
    echo "the cluster $name is there already"
else
    # The port of the UI is open on this machine only.
    run kind create cluster --name "$name" --image "$NODE" --wait 5m --config - <<EOF
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
    extraPortMappings:
      - {containerPort: $NODE_PORT, hostPort: $port, listenAddress: 127.0.0.1}
EOF
fi

# shellcheck disable=SC2086 # a tag and its commit are two arguments
{
    check_out argo-workflows https://github.com/argoproj/argo-workflows $ARGO manifests
    check_out pipelines https://github.com/kubeflow/pipelines $PIPELINES manifests/kustomize
}
# Kubeflow's manifests name Argo's by a tag, which can move; they take those that were checked out above.
if [ ! -d "$kustomize/third-party/argo/upstream" ]; then
    run cp -r $sources/argo-workflows/manifests "$kustomize/third-party/argo/upstream"
    for part in base:.. installs/namespace:../.. installs/namespace/cluster-scoped:../../..; do
        run sed -i.orig "s#https://github.com/argoproj/argo-workflows/manifests\\([^?]*\\).*#${part#*:}/upstream\\1#" \
            "$kustomize/third-party/argo/${part%%:*}/kustomization.yaml"
    done
fi

run kubectl --context "$context" apply --kustomize $kustomize/cluster-scoped-resources
run kubectl --context "$context" wait --for condition=established --timeout 60s \
    crd/applications.app.k8s.io crd/workflows.argoproj.io
run kubectl --context "$context" apply --kustomize $kustomize/env/platform-agnostic
run kubectl --context "$context" patch service ml-pipeline-ui --namespace kubeflow --patch \
    "{\"spec\": {\"type\": \"NodePort\", \"ports\": [{\"port\": 80, \"nodePort\": $NODE_PORT}]}}"
run .venv/bin/python -m tools.load --into "$context"
run kubectl --context "$context" wait --namespace kubeflow --for condition=available --timeout 15m deployment --all

cat <<EOF

Kubeflow Pipelines: http://localhost:$port
Run a pipeline:     .venv/bin/python submit.py kubeflow run tabular-training --endpoint http://localhost:$port --wait
Test everything:    make test-cluster ENDPOINT=http://localhost:$port
Remove the cluster: scripts/kubeflow.sh --delete --name $name
EOF
