#!/usr/bin/env bash
# Prints all Secrets for an overlay with its own PostgreSQL and S3, with new random values:
#
#     bash k8s/secrets.sh | kubectl create -f -
#
# The servers' Secrets are in namespace vgg-services; in vgg, where researchers may mount any, are only those of trainings.
# Use `create`, never `apply`: it refuses to replace passwords that the servers already use. For a managed database or
# store, put its address and credentials into the same keys (overlays/paper/secrets.example.yaml).
set -euo pipefail

random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

database=$(random)
admin_key=$(random) admin_secret=$(random)
mlflow_key=$(random) mlflow_secret=$(random)
ray_key=$(random) ray_secret=$(random)
uri="postgresql://mlflow:$database@postgres:5432/mlflow"

secret() { # NAMESPACE NAME, then the lines of stringData on standard input
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\nstringData:\n' "$2" "$1"
    sed 's/^/  /'
}

secret vgg ray-token <<END
auth_token: $(random)
END
secret vgg-services postgres <<END
password: $database
END
secret vgg-services mlflow-server <<END
uri: $uri
admin-password: $(random)
flask-key: $(random)
basic_auth.ini: |
  [mlflow]
  default_permission = READ
  database_uri = $uri
  admin_username = admin
  authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
login=$(random)
for namespace in vgg vgg-services; do # trainings log in with it; a Job in vgg-services creates the user
    secret $namespace mlflow-login <<END
username: trainer
password: $login
END
done
for each in "vgg-services admin $admin_key $admin_secret" "vgg-services mlflow $mlflow_key $mlflow_secret" \
    "vgg ray $ray_key $ray_secret"; do
    read -r namespace name key value <<<"$each"
    secret "$namespace" "s3-$name" <<END
access-key: $key
secret-key: $value
END
done
secret vgg-services s3-config <<END
s3.json: |
  {"identities": [
    {"name": "admin", "credentials": [{"accessKey": "$admin_key", "secretKey": "$admin_secret"}],
     "actions": ["Admin"]},
    {"name": "mlflow", "credentials": [{"accessKey": "$mlflow_key", "secretKey": "$mlflow_secret"}],
     "actions": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"]},
    {"name": "ray", "credentials": [{"accessKey": "$ray_key", "secretKey": "$ray_secret"}],
     "actions": ["Read:runs", "Write:runs", "List:runs", "Tagging:runs"]}
  ]}
END
