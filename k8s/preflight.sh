#!/usr/bin/env bash
# Says what is missing before anything is applied:
#
#     bash k8s/preflight.sh k8s/overlays/paper [FILLED-IN-SECRETS.yaml]
#
# Placeholders (CHANGE-ME, example.com, addresses of RFC 5737), and what the overlay needs of the cluster: versions, storage
# classes, definitions of custom resources, Secrets. Notes images without a digest. Changes nothing. Exit code 1 if anything
# is missing.
set -euo pipefail
overlay=${1:?"usage: bash k8s/preflight.sh OVERLAY [SECRETS.yaml]"}
secrets=${2:-}
missing=0

miss() { printf 'missing: %s\n' "$*"; missing=1; }
has() { kubectl get "$@" >/dev/null 2>&1; }

rendered=$(kubectl kustomize "$overlay") || exit 1

placeholders() { # NAME TEXT
    local found
    found=$(grep -vE '^ *#' <<<"$2" | sed -E 's/^ *//' | sort -u |
        grep -E 'CHANGE-ME|example\.com|\b(192\.0\.2|198\.51\.100|203\.0\.113)\.[0-9]') || return 0
    while IFS= read -r line; do miss "$1 still says: $line"; done <<<"$found"
}
placeholders "$overlay" "$rendered"
if [ -n "$secrets" ]; then
    placeholders "$secrets" "$(cat "$secrets")"
fi

minor=$(kubectl version -o json | python3 -c 'import json, re, sys; print(re.sub(r"\D", "", json.load(sys.stdin)["serverVersion"]["minor"]))')
[ "$minor" -ge 32 ] || miss "Kubernetes 1.32 or newer (the server is 1.$minor)"

# Custom resources: RayCluster and RayJob always, others where a component brings them.
served=$(kubectl api-versions)
while read -r api; do
    case $api in
    ray.io/* | kueue.x-k8s.io/* | monitoring.coreos.com/*)
        grep -qx "$api" <<<"$served" || miss "API $api (KubeRay 1.7, Kueue 0.15, the Prometheus operator)" ;;
    esac
done < <(sed -nE 's/^apiVersion: //p' <<<"$rendered" | sort -u)

while read -r class; do
    has storageclass "$class" || miss "storage class $class"
done < <(sed -nE 's/^ *storageClassName: //p' <<<"$rendered" | sort -u)
if ! kubectl get storageclass -o yaml 2>/dev/null | grep 'is-default-class: "true"' >/dev/null; then
    miss "a default storage class: some claims name none"
fi

# Secrets: in the cluster, or in the file that is given.
while read -r namespace name; do
    [ -n "$name" ] || continue
    if [ -n "$secrets" ] && grep -A1 -E "name: $name\b" "$secrets" | grep -q "namespace: $namespace\b"; then continue; fi
    has -n "$namespace" secret "$name" || miss "Secret $name in namespace $namespace"
done < <(python3 -c '
import re, sys
for document in sys.stdin.read().split("\n---\n"):
    space = re.search(r"^  namespace: (\S+)", document, re.M)
    names = re.findall(r"(?:secretKeyRef:\n\s+key: \S+\n\s+name|secretName): (\S+)", document)
    for name in sorted(set(names)):
        print(space[1] if space else "default", name)
' <<<"$rendered" | sort -u)

# A tag is moved by whoever may push to its registry. Images without one (`vgg-study`) are loaded into the nodes.
while read -r image; do
    case $image in
    '' | *@sha256:* | vgg-study*) ;;
    *) printf 'note: %s has a tag, no digest (images/kustomization.yaml of the overlay)\n' "$image" ;;
    esac
done < <(sed -nE 's/^[ -]*image: //p' <<<"$rendered" | sort -u)

dns=$(kubectl -n kube-system get service kube-dns -o jsonpath='{.spec.clusterIP}' 2>/dev/null || true)
if [ -n "$dns" ] && has -n kube-system daemonset node-local-dns; then
    printf 'note: with NodeLocal DNSCache, some network plugins judge before addresses are translated: if names are not\n'
    printf '      resolved, allow port 53 of %s/32 in k8s/base/default-network/policies.yaml\n' "$dns"
fi
if [ "$missing" = 0 ]; then echo "nothing is missing"; fi
exit "$missing"
