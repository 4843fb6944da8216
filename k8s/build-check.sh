#!/usr/bin/env bash
# Builds both images from a base image created here, without Docker or an image registry, and runs them as Kubernetes
# would: as user 1000, on a read-only root, without capabilities and without a way to gain any.
#
#     apt-get install --no-install-recommends buildah debootstrap
#     bash k8s/build-check.sh            # needs root and 20 GB of disk; about 10 minutes
#
# The build mounts this machine's PIP_CONF=/etc/pip.conf and CERTS=/etc/ssl/certs, for networks that need them.
# shellcheck disable=SC2016 # the quoted scripts run elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "error: debootstrap, mounts and chroot need root" >&2; exit 2; }
for tool in buildah debootstrap unshare setpriv; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing: apt-get install ${tool/setpriv/util-linux}" >&2; exit 2; }
done

work=$(mktemp -d /var/tmp/vgg-build.XXXXXX)
container=
cleanup() {
    [ -z "$container" ] || buildah rm "$container" >/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
lent=(--volume "${CERTS:-/etc/ssl/certs}:/etc/ssl/certs:ro")
[ ! -e "${PIP_CONF:-/etc/pip.conf}" ] || lent+=(--volume "${PIP_CONF:-/etc/pip.conf}:/etc/pip.conf:ro")

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

if ! buildah inspect --type image vgg-base >/dev/null 2>&1; then
    say "a base of Debian 12"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" >"$work/debootstrap.log" ||
        { tail -20 "$work/debootstrap.log" >&2; exit 1; }
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/root" / >/dev/null
    buildah commit --quiet "$container" vgg-base >/dev/null
    buildah rm "$container" >/dev/null
    container=
    rm -rf "$work/root"
fi

build() { # IMAGE, Dockerfile, context
    say "building $1"
    buildah build --layers --isolation chroot --network host --build-arg BASE=localhost/vgg-base "${lent[@]}" \
        --file "$2" --tag "$1" "$3"
}
build vgg-study:0.1.0 k8s/Dockerfile .
build vgg-study-mlflow:0.1.0 k8s/mlflow/Dockerfile k8s/mlflow

# Restrictions of our Pods: read-only root, /tmp and /dev/shm writable. Loopback network only.
confined() { # IMAGE, command
    container=$(buildah from "$1")
    root=$(buildah mount "$container")
    shift
    unshare --mount --net --pid --ipc --fork bash -euo pipefail -c '
        root=$1; shift
        ip link set lo up
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o size=6g,mode=1777 tmp "$root/tmp"
        mount -t tmpfs -o mode=755 dev "$root/dev"
        mkdir -m 1777 "$root/dev/shm"
        for device in null zero full random urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
        mount -o remount,bind,ro "$root"
        exec chroot "$root" /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
            /usr/bin/env -i HOME=/tmp "PATH=/opt/vgg/bin:/opt/mlflow/bin:/usr/bin:/bin" RAY_USAGE_STATS_ENABLED=0 "$@"
    ' confined "$root" "$@"
    buildah rm "$container" >/dev/null
    container=
}

say "the training image: who and where"
confined vgg-study:0.1.0 bash -c '
    id
    grep -E "^(CapEff|CapBnd|NoNewPrivs)" /proc/self/status
    ! touch /opt/vgg/probe 2>/dev/null || { echo "error: the root is writable" >&2; exit 1; }
    echo "the root is read-only"'
say "the digits, packed and trained to the end"
confined vgg-study:0.1.0 bash -ec '
    python -m pipelines.pack digits /tmp/digits --workers 1
    python -m vgg.train digits --data /tmp/digits --out /tmp/run --layout.workers 2
    python -m vgg.evaluate /tmp/run --data /tmp/digits'
say "the MLflow image: a server that answers"
confined vgg-study-mlflow:0.1.0 bash -ec '
    cd /tmp
    export MLFLOW_FLASK_SERVER_SECRET_KEY=check MLFLOW_AUTH_ADMIN_PASSWORD=only-for-this-check MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
    mlflow server --app-name basic-auth --backend-store-uri sqlite:////tmp/mlflow.db --workers 1 --port 5000 >/tmp/server.log 2>&1 &
    for _ in $(seq 90); do
        python -c "import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:5000/health\").read().decode())" 2>/dev/null && exit 0
        sleep 1
    done
    cat /tmp/server.log >&2
    exit 1'
say "sizes"
buildah images | grep -E "REPOSITORY|vgg"
say "done"
