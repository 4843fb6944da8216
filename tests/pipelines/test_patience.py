"""Which errors of a store may pass, which are the user's mistake, and how long it is waited for."""

import errno
import threading
import time

import pytest

from cli.errors import UserError
from pipelines.shards.manifest import read_manifest
from pipelines.storage import folder as folder_module
from pipelines.storage import patience as patience_module
from pipelines.storage.folder import Folder
from pipelines.storage.patience import Patience, StoreUnavailable, may_pass, patiently, reason
from tests.object_store import KEYS, ObjectStore

WHILE = "When getting information for key 'd/x' in bucket 'bucket': AWS Error "
REFUSED = (
    f"{WHILE}NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server; "
    "Details: Failed to connect to 127.0.0.1 port 1 after 0 ms: Could not connect to server"
)
UNKNOWN_HOST = (
    f"{WHILE}NETWORK_CONNECTION during HeadObject operation: curlCode: 6, Could not resolve hostname; "
    "Details: Could not resolve host: nosuchhost.invalid"
)


@pytest.mark.parametrize(
    ("text", "passes", "said"),
    [
        (REFUSED, True, "NETWORK_CONNECTION: curlCode: 7, Could not connect to server"),
        (UNKNOWN_HOST, True, "NETWORK_CONNECTION: curlCode: 6, Could not resolve hostname"),
        (
            f"{WHILE}UNKNOWN (HTTP status 503) during HeadObject operation: No response body.",
            True,
            "UNKNOWN (HTTP status 503)",
        ),
        (
            f"{WHILE}UNKNOWN (HTTP status 429) during HeadObject operation: x",
            True,
            "UNKNOWN (HTTP status 429): x",
        ),
        (f"{WHILE}SLOW_DOWN during ListObjectsV2 operation: slow", True, "SLOW_DOWN: slow"),
        (
            "AWS Error INTERNAL_FAILURE during GetObject operation: We encountered an internal error",
            True,
            "INTERNAL_FAILURE: We encountered an internal error",
        ),
        (
            f"{WHILE}UNKNOWN (HTTP status 400) during HeadObject operation: No response body.",
            False,
            "status 400",
        ),
        (f"{WHILE}NO_SUCH_BUCKET during PutObject operation: gone", False, "NO_SUCH_BUCKET: gone"),
        (f"{WHILE}ACCESS_DENIED during HeadObject operation: No response body.", False, "access denied"),
        (f"{WHILE}SIGNATURE_DOES_NOT_MATCH during PutObject operation: no", False, "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_kinds_of_a_stores_errors(text, passes, said):
    """Texts of pyarrow 25 against SeaweedFS, and against a server that answers with each status."""
    assert may_pass(OSError(text)) == passes
    assert said in reason(OSError(text))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (ValueError("AWS Error SLOW_DOWN"), False),
    ],
)
def test_kinds_of_a_systems_errors(error, passes):
    assert may_pass(error) == passes


def failing(*errors):
    """A call that raises these, one after the other, then returns."""
    left = list(errors)

    def call():
        if left:
            raise left.pop(0)
        return "done"

    return call


def test_an_outage_is_told_once_and_so_is_its_end(capsys):
    call = failing(*[OSError(REFUSED)] * 3)
    assert patiently(call, Patience(5.0, StoreUnavailable), "--out s3://b/told") == "done"
    begin, end = capsys.readouterr().err.splitlines()
    assert begin.startswith("--out s3://b/told does not answer (NETWORK_CONNECTION")
    assert begin.endswith("waiting up to 5 s")
    assert end.startswith("--out s3://b/told answers again after")
    assert patiently(failing(), Patience(5.0, StoreUnavailable), "--out s3://b/told") == "done"
    assert capsys.readouterr().err == ""


def test_a_call_that_gives_up_at_once_does_not_tell_for_those_that_wait(capsys):
    """As the lease, which is renewed beside a checkpoint that is being written."""

    def call():
        with pytest.raises(OSError, match="NETWORK"):
            patiently(failing(OSError(REFUSED)), Patience(0.0, StoreUnavailable), "--out s3://b/two")
        return waiting()

    waiting = failing(*[OSError(REFUSED)] * 3)
    assert patiently(call, Patience(5.0, StoreUnavailable), "--out s3://b/two") == "done"
    said = capsys.readouterr().err
    assert (said.count("does not answer"), said.count("answers again")) == (1, 1)


def test_a_store_that_stayed_away_is_asked_once_more_by_each_call(monkeypatch):
    """A training that gives its store up does not wait as long again for each file of its end."""
    store, patience = "--out s3://b/gone", Patience(0.5, StoreUnavailable)

    def tries() -> int:
        left = [OSError(REFUSED)] * 100
        with pytest.raises(OSError, match="NETWORK"):
            patiently(lambda: failing_with(left), patience, store)
        return 100 - len(left)

    def failing_with(left):
        raise left.pop()

    assert tries() > 1
    assert [tries(), tries()] == [1, 1]
    monkeypatch.setattr(patience_module, "FORGOTTEN_SECONDS", 0.0)  # as if nobody had asked for long
    assert tries() > 1


def test_what_does_not_pass_is_not_tried_again():
    with pytest.raises(OSError, match="No space"):
        patiently(failing(OSError(errno.ENOSPC, "No space")), Patience(60.0, UserError), "x")


def test_an_unknown_host_is_a_mistake_at_first_and_an_outage_later():
    first = Patience(60.0, UserError, knows_host=False)
    with pytest.raises(OSError, match="resolve"):
        patiently(failing(OSError(UNKNOWN_HOST)), first, "x")
    assert patiently(failing(OSError(UNKNOWN_HOST)), Patience(60.0, StoreUnavailable), "x") == "done"


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(folder_module, "FIRST_CONTACT", Patience(0.5, UserError, knows_host=False))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def test_a_store_that_refuses_connections_is_named_with_its_flag(short_patience):
    uri = "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1"
    with pytest.raises(UserError) as told:
        Folder(uri, "--out").exists("run.json")
    assert str(told.value).startswith(f"--out {uri} cannot be read (run.json) for 0.5 s: NETWORK_CONNECTION")
    assert "\n" not in str(told.value)
    with pytest.raises(StoreUnavailable):
        Folder(uri, "--out").underway(Patience(0.0, StoreUnavailable)).write("x", b"")


def test_a_wrong_key_is_told_at_once(object_store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    started = time.monotonic()
    for call in (
        lambda run: run.exists("x"),
        lambda run: run.names(),
        lambda run: run.read("x"),
        lambda run: run.write("x", b""),
        lambda run: run.require_writable(),
    ):
        with pytest.raises(UserError, match=r"--out s3://bucket/.*access denied.*check AWS_ACCESS_KEY_ID"):
            call(Folder(object_store.uri("wrong"), "--out"))
    assert time.monotonic() - started < 15  # FIRST_CONTACT's 20 seconds were not waited


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://", "names no bucket"),
        ("s3:///x", "Missing bucket name"),
        ("foo://x", "Unrecognized filesystem type"),
        ("s3://bucket/a b", "Cannot parse URI"),
        ("s3://bucket/a?nonsense=1", "nonsense"),
    ],
)
def test_addresses_that_are_none(uri, said):
    with pytest.raises(UserError, match=said) as told:
        Folder(uri, "--out")
    assert f"--out {uri}" in str(told.value)


@pytest.mark.parametrize("name", ["x" * 300, "file/out", "/proc/nothing", "/dev/null/x"])
def test_folders_that_cannot_be(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    out = Folder(str(tmp_path / name), "--out")
    with pytest.raises(UserError, match=f"--out {out.uri}"):
        out.require_writable()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    for name in ("there", "new/below"):
        Folder(str(tmp_path / name)).require_writable()
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "there", tmp_path / "there" / "mine"]


def test_a_manifest_is_read_from_a_store_that_was_away(tmp_path, monkeypatch, capsys, digits):
    """A real server, killed and started again while the manifest is asked for."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with ObjectStore(tmp_path) as store:
        source = Folder(store.uri("digits"), "--data")
        source.write("manifest.json", (digits / "manifest.json").read_bytes())
        store.kill()
        starting = threading.Timer(3.0, store.start)
        starting.start()
        found = read_manifest(source.underway())
        starting.join()
    assert found == read_manifest(digits)
    begin, end = [line for line in capsys.readouterr().err.splitlines() if "--data" in line]
    assert "does not answer" in begin
    assert "answers again" in end
