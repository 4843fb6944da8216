#!/usr/bin/env bash
# Everything that needs a real cluster, on one machine with Docker: a kind cluster whose network plugin enforces policies, the
# operator, overlays/local-cpu, a training on the digits to its end, and one whose head is killed and that resumes.
#
#     bash k8s/kind-check.sh          # docker, kind, kubectl; 4 CPUs, 16 GB, 40 GB of disk; about 30 minutes
#
# KEEP=1 leaves the cluster for a look at it. Ends with a summary; exit code 1 if any step failed.
# shellcheck disable=SC2329 # `step` calls the functions
set -euo pipefail
cd "$(dirname "$0")/.."
name=${CLUSTER:-vgg-check}
log=$(mktemp -d "${TMPDIR:-/tmp}/kind-check.XXXXXX")
failed=0
summary=()

for tool in docker kind kubectl; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing" >&2; exit 2; }
done

step() { # NAME, command: runs it, remembers how it ended
    local title=$1 began=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    set +e # in a condition, bash would go on after a failed command of the step
    (set -e; "$@") 2>&1 | tee -a "$log/steps.log"
    local code=${PIPESTATUS[0]}
    set -e
    if [ "$code" = 0 ]; then
        summary+=("ok     $title ($((SECONDS - began)) s)")
    else
        summary+=("FAILED $title ($((SECONDS - began)) s)")
        failed=1
        kubectl get pods --all-namespaces -o wide || true
        kubectl -n vgg get events --sort-by=.lastTimestamp 2>/dev/null | tail -30 || true
        finish
    fi
}

finish() {
    printf '\n== summary (logs in %s)\n' "$log"
    printf '%s\n' "${summary[@]}"
    if [ "${KEEP:-0}" != 1 ]; then kind delete cluster --name "$name"; fi
    exit "$failed"
}

# kind's own plugin enforces NetworkPolicies since 0.24.
cluster() { kind create cluster --name "$name" --wait 5m; }

images() {
    docker build -f k8s/Dockerfile -t vgg-study:0.1.0 .
    docker build -t vgg-study-mlflow:0.1.0 k8s/mlflow
    kind load docker-image --name "$name" vgg-study:0.1.0 vgg-study-mlflow:0.1.0
}

operator() {
    kubectl apply --server-side -k k8s/operator
    kubectl -n kuberay-operator rollout status deployment/kuberay-operator --timeout=5m
}

platform() {
    kubectl apply -k k8s/base/namespaces
    bash k8s/secrets.sh | kubectl create -f -
    bash k8s/preflight.sh k8s/overlays/local-cpu
    kubectl apply -k k8s/overlays/local-cpu
    kubectl -n vgg-services rollout status statefulset/postgres statefulset/s3 statefulset/mlflow --timeout=10m
    kubectl -n vgg-services wait job --all --for=condition=Complete --timeout=10m
    kubectl -n vgg wait raycluster/vgg --for=condition=HeadPodReady --timeout=10m
}

# A Pod of a researcher's, as the namespace admits it, tries to connect.
connects() { # HOST PORT
    local head
    head=$(kubectl -n vgg get pod -l ray.io/node-type=head,ray.io/cluster=vgg -o name | head -n 1)
    kubectl -n vgg exec "$head" -c ray-head -- python -c \
        "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)" "$1" "$2"
}

policies() {
    connects mlflow.vgg-services 5000
    connects s3.vgg-services 8333
    if connects postgres.vgg-services 5432 2>/dev/null; then echo "a training reaches PostgreSQL"; return 1; fi
    if connects 169.254.169.254 80 2>/dev/null; then echo "a training reaches the metadata address"; return 1; fi
    if connects kubernetes.default 443 2>/dev/null; then echo "a training reaches the API server"; return 1; fi
    echo "what must connect connects, and nothing else"
}

rights() {
    local researcher=(--as=ada --as-group=vgg-researchers)
    kubectl auth can-i create rayjobs.ray.io -n vgg "${researcher[@]}"
    if kubectl auth can-i get secrets -n vgg-services "${researcher[@]}"; then return 1; fi
    if kubectl auth can-i create pods -n vgg-services "${researcher[@]}"; then return 1; fi
}

status() { kubectl -n vgg get rayjob "$1" -o jsonpath="{.status.$2}"; }

ended() { # RAYJOB SECONDS: waits until it has ended, fails unless it is complete
    local until=$((SECONDS + $2))
    while [ "$SECONDS" -lt "$until" ]; do
        case $(status "$1" jobDeploymentStatus) in
        Complete) kubectl -n vgg logs "job/$1" --tail=20; return 0 ;;
        Failed) kubectl -n vgg logs "job/$1" --tail=50; return 1 ;;
        esac
        sleep "${POLL:-10}"
    done
    echo "$1 did not end in $2 s"
    return 1
}

digits() {
    kubectl apply -k k8s/overlays/local-cpu/job
    ended digits 1200
}

# A longer training, whose head's Pod is deleted after its first checkpoint.
head_lost() {
    kubectl kustomize k8s/overlays/local-cpu/job |
        sed -E -e 's#(name|vgg/job): digits$#\1: digits-lost#' -e 's#s3://runs/digits#&-lost#' -e 's#vgg.train digits#& --train.epochs=20 --train.checkpoint-steps=20#' |
        kubectl apply -f -
    local until=$((SECONDS + 1200)) head
    until kubectl -n vgg logs job/digits-lost 2>/dev/null | grep -E '^step ([4-9][0-9]|[0-9]{3,})/' >/dev/null; do
        [ "$SECONDS" -lt "$until" ] || { echo "no checkpoint"; return 1; }
        sleep "${POLL:-10}"
    done
    head=$(kubectl -n vgg get pod -l ray.io/node-type=head,vgg/job=digits-lost -o name | head -n 1)
    kubectl -n vgg delete "$head" --grace-period=0 --force
    ended digits-lost 2400
    kubectl -n vgg logs -l batch.kubernetes.io/job-name=digits-lost --tail=-1 | grep 'resumed from step'
}

step "a cluster" cluster
step "the images" images
step "the operator" operator
step "the platform" platform
step "network policies" policies
step "a researcher's rights" rights
step "the digits, trained to the end" digits
step "the head lost, the training resumed" head_lost
finish
