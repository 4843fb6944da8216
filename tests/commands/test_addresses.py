"""Secrets in addresses are refused by every command, before anything is started, and never repeated."""

import sys
from urllib.parse import quote

import pytest

from cli.addresses import refuse_secret
from cli.errors import UserError
from pipelines import inspect, pack, stage
from pipelines.storage.folder import Folder
from vgg import ensemble, evaluate, predict, report, track, train
from vgg.weights.open_net import open_net

KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
STORE = "s3://AKIA:S3CRET@bucket/x"


@pytest.mark.parametrize(
    "address",
    [
        STORE,
        "s3://AKIA:S3/CRET@bucket/x",  # as many of Amazon's keys have one
        "s3://S3CRET@bucket/x",
        "S3://AKIA:S3CRET@bucket/x",
        "s3:/AKIA:S3CRET@bucket/x",
        "s3://AKIA%3AS3CRET%40x@bucket/x",
        "s3://bucket/x?access_key=AKIA&secret_key=S3CRET",
        "s3://bucket/x?scheme=http&Secret%5FKey=S3CRET",
        "s3://bucket/x?session_token=S3CRET",
        "s3://bucket/x?scheme=http&endpoint_override=http://u:S3CRET@host",
        f"s3://bucket/x?endpoint_override={quote('http://u:S3CRET@host', safe='')}",
        "abfs://container:S3CRET@account.dfs.core.windows.net/x",
        "abfs://:S3CRET@account.blob.core.windows.net/x",
        "abfs://container@account.dfs.core.windows.net/x?sv=1&sig=S3CRET",
        "hdfs://user:S3CRET@host:8020/x",
        "hdfs://user:1234@host:8020/x",
        "https://S3CRET@host/x",
        "ftp://user:S3CRET@host/x",
    ],
)
def test_an_address_with_a_secret(address):
    with pytest.raises(UserError, match="holds a user name, a password or a key") as refused:
        refuse_secret(address, "--data")
    assert "S3CRET" not in str(refused.value)
    assert KEYS in str(refused.value) or not address.lower().startswith("s3")
    with pytest.raises(UserError, match="holds a user name, a password or a key"):
        Folder(address)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/runs/me@home",
        "s3://bucket/a:b",
        "s3://bucket/secret_key/monkey",
        "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http&allow_bucket_creation=true",
        "abfs://container@account.dfs.core.windows.net/x?credential_kind=environment&enable_tls=true",
        "gs://anonymous@bucket/x",
        "hdfs://user@host:8020/x",
        "hdfs://host:8020/user/a@b",
        "file:///data/a:b@c",
        "/data/a:b@c",
        "models:/name@alias",
        "runs:/abc",
    ],
)
def test_an_address_without_one(address):
    refuse_secret(address, "--data")


COMMANDS = [
    (train, ["digits", "--data", STORE, "--out", "OUT"], KEYS),
    (train, ["digits", "--data", "OUT", f"--out={STORE}"], KEYS),
    (train, ["digits", f"--model.start-from={STORE}"], KEYS),
    (train, ["digits", "--track", "http://me:S3CRET@host:5000"], LOGIN),
    (train, ["digits", "--track", "me:S3CRET@host:5000"], LOGIN),
    (train, ["digits", "--trak", "http://me:S3CRET@host:5000"], LOGIN),  # tyro would repeat it
    (evaluate, [STORE, "--data", "OUT"], KEYS),
    (evaluate, ["run", "--data", STORE], KEYS),
    (ensemble, ["one", STORE, "--out", "OUT"], KEYS),
    (predict, ["cat.jpg", "--net", STORE], KEYS),
    (report, ["--track", "http://me:S3CRET@host:5000"], LOGIN),
    (track, ["OUT", "--uri", "http://me:S3CRET@host:5000"], LOGIN),
    (pack, ["digits", STORE], KEYS),
    (inspect, [STORE], KEYS),
    (stage, [STORE], KEYS),
]


@pytest.mark.parametrize(("command", "given", "instead"), COMMANDS)
def test_every_command_refuses_it(command, given, instead, monkeypatch, capsys, tmp_path):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", *[str(out) if each == "OUT" else each for each in given]])
    with pytest.raises(SystemExit) as ended:
        command.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err.count("\n") == 1
    assert instead in said.err
    assert "S3CRET" not in said.out + said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "given"),
    [
        (train, ["digits", "--dry-run"]),
        (evaluate, ["run", "--data", "data"]),
        (ensemble, ["one", "--out", "out"]),
        (report, []),
        (track, ["spool"]),
    ],
)
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://me:S3CRET@host:5000", LOGIN),
        ("ftp://host/x", "MLFLOW_TRACKING_URI ftp://host/x is not the address of an MLflow server"),
    ],
)
def test_the_variable_is_treated_as_the_flag(command, given, address, said, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(sys, "argv", ["x", *given])
    with pytest.raises(SystemExit) as ended:
        command.main()
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (2, 1)
    assert "MLFLOW_TRACKING_URI" in err
    assert said in err
    assert "S3CRET" not in err


@pytest.mark.parametrize("flag", ["--track", "--uri"])
@pytest.mark.parametrize(
    "address",
    [
        "ftp://host:5000",
        "htp:/x",
        "htp://host:5000",
        "localhost:5000",
        "host",
        "http:/host:5000",
        "http://",
        "http://host:port",
        "http://host:",
        "http://:5000",
        "http://[::1",
        "http:// host",
        "http://host:5000/#/experiments/1",
        "/var/mlruns",
        "sqlite:///mlflow.db",
    ],
)
def test_a_wrong_scheme_is_the_users_mistake(flag, address, monkeypatch, capsys, tmp_path):
    command, given = (train, ["digits", "--dry-run"]) if flag == "--track" else (track, [str(tmp_path)])
    monkeypatch.setattr(sys, "argv", ["x", *given, flag, address])
    with pytest.raises(SystemExit) as ended:
        command.main()
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {flag} ")
    assert "is not the address of an MLflow server, such as http://host:5000" in err


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:5000", "https://host/mlflow/", "HTTP://HOST", "http://[::1]:5000"]
)
def test_an_address_of_a_server(address, monkeypatch, tmp_path):
    """It is taken: what is wrong then is the spool."""
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--uri", address])
    with pytest.raises(UserError, match="is not a spool"):
        track.deliver(track.TrackOptions(tmp_path, address))


def test_the_client_of_mlflow_itself_is_given_no_secret(monkeypatch):
    """`runs:/…` is read from MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:S3CRET@127.0.0.1:9")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_USERNAME") as refused:
        open_net("runs:/abc")
    assert "S3CRET" not in str(refused.value)
