"""Add a user to MLflow, or give it its password again: an administrator's errand, run as a Job.

MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say where and as whom,
NEW_USERNAME and NEW_PASSWORD whom to add. Exit code 1 where the server does not answer: the Job tries again.
"""

import os
import sys

import requests

TIMEOUT_SECONDS = 30


def main() -> None:
    """Create the user; where it exists, set its password."""
    base = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/users"
    login = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    user = {"username": os.environ["NEW_USERNAME"], "password": os.environ["NEW_PASSWORD"]}
    try:
        answer = requests.post(f"{base}/create", json=user, auth=login, timeout=TIMEOUT_SECONDS)
        if answer.status_code == 400 and "RESOURCE_ALREADY_EXISTS" in answer.text:
            answer = requests.patch(f"{base}/update-password", json=user, auth=login, timeout=TIMEOUT_SECONDS)
    except requests.RequestException as error:
        sys.exit(f"error: no answer at {base}: {error}")
    if not answer.ok:
        sys.exit(f"error: {base} answered {answer.status_code}: {answer.text}")
    print(f"user {user['username']} may log in at {os.environ['MLFLOW_TRACKING_URI']}")


if __name__ == "__main__":
    main()
