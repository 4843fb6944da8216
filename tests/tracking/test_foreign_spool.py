"""A spool that somebody else wrote is data: it reads and writes no file but its own."""

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cli.errors import UserError
from tests.tracking.runs import points, run_of
from vgg.track import TrackOptions, deliver

SECRET = "root:x:0:0:secret"


@pytest.fixture
def secret(tmp_path):
    """A file of the machine that a spool must not reach."""
    file = tmp_path / "machine" / "passwd"
    file.parent.mkdir()
    file.write_text(SECRET)
    return file


@pytest.fixture
def spool(tmp_path, info):
    folder = tmp_path / "spool"
    (folder / "files").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(asdict(info)))
    return folder


def write_events(spool, *events):
    before, after = (
        {"kind": "metrics", "step": step, "time": step, "values": {"loss": 1.0}} for step in (1, 2)
    )
    end = {"kind": "status", "status": "FINISHED", "time": 5}
    (spool / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in (before, *events, after, end)))


def everything_of(client, run):
    """Paths and contents of all artifacts of a run."""
    folder, found = [""], {}
    while folder:
        for each in client.list_artifacts(run.info.run_id, folder.pop()):
            if each.is_dir:
                folder.append(each.path)
            else:
                found[each.path] = Path(client.download_artifacts(run.info.run_id, each.path)).read_bytes()
    return found


def test_only_its_own_files_are_read(server, info, spool, secret, capsys):
    files = spool / "files"
    (files / "good.txt").write_text("mine")
    (files / "link").symlink_to(secret)
    (files / "folder").symlink_to(secret.parent)
    os.link(secret, files / "hard")
    os.mkfifo(files / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(files / "socket"))
    (files / "inside").mkdir()
    names = [
        str(secret),
        "../../machine/passwd",
        "folder/passwd",
        "inside/../../../machine/passwd",
        "./good.txt",
        *("link", "folder", "hard", "fifo", "socket", "inside", "", ".", "..", "\0", "../run.json"),
    ]
    bad: list[dict[str, Any]] = [
        {"kind": "artifact", "path": f"stolen{i}", "file": name} for i, name in enumerate(names)
    ]
    model = {"about": {}, "weights_sha256": "a", "step": 1, "time": 1, "metrics": {}}
    bad += [{"kind": "model", "file": name, **model} for name in ("../../machine/passwd", "link")]
    write_events(spool, *bad, {"kind": "artifact", "path": "good.txt", "file": "good.txt"})
    deliver(TrackOptions(spool, server.url))
    client, run = run_of(server, info)
    assert everything_of(client, run) == {"good.txt": b"mine"}
    assert points(client, run, "loss") == [(1, 1.0), (2, 1.0)]
    assert run.info.status == "FINISHED"
    kept = [json.loads(line) for line in (spool / "rejected.jsonl").read_text().splitlines()]
    assert [each["event"] for each in kept] == bad
    assert all("NotPlain" in each["reason"] for each in kept)
    assert SECRET not in capsys.readouterr().err + (spool / "rejected.jsonl").read_text()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/x",
        "../x",
        "a/../../x",
        "a/../x",
        "a//x",
        "./x",
        "..",
        "",
        "a/",
        "a\\..\\x",
        "%2e%2e/x",
        "a\nx",
        "\x1b[2Jx",
        "file:///etc/x",
    ],
)
def test_no_place_outside_its_run_is_written(server, info, spool, capsys, path):
    (spool / "files" / "x").write_text("mine")
    write_events(spool, {"kind": "artifact", "path": path, "file": "x"})
    deliver(TrackOptions(spool, server.url))
    client, run = run_of(server, info)
    assert everything_of(client, run) == {}
    assert points(client, run, "loss") == [(1, 1.0), (2, 1.0)]
    (kept,) = (spool / "rejected.jsonl").read_text().splitlines()
    assert "is not a path within a run" in json.loads(kept)["reason"]
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "events.jsonl", "sent.json", "rejected.jsonl", "lock"])
def test_its_files_are_no_links(spool, secret, name):
    write_events(spool)
    (spool / name).unlink(missing_ok=True)
    secret.write_text((spool / "run.json").read_text() if (spool / "run.json").exists() else SECRET)
    before = secret.read_bytes()
    (spool / name).symlink_to(secret)
    with pytest.raises(UserError, match=f"{name} is not a file itself but a link"):
        deliver(TrackOptions(spool, "http://127.0.0.1:9", patience_seconds=0))
    assert secret.read_bytes() == before


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_its_folder_of_files_is_itself(spool, secret, kind):
    write_events(spool)
    (spool / "files").rmdir()
    if kind == "link":
        (spool / "files").symlink_to(secret.parent)
    else:
        os.mkfifo(spool / "files")
    with pytest.raises(UserError, match="files is not a folder itself but a link"):
        deliver(TrackOptions(spool, "http://127.0.0.1:9", patience_seconds=0))


def test_events_that_are_a_fifo_are_not_waited_for(spool):
    os.mkfifo(spool / "events.jsonl")
    with pytest.raises(UserError, match=r"events\.jsonl is not a file itself"):
        deliver(TrackOptions(spool, "http://127.0.0.1:9", patience_seconds=0))


def test_a_link_to_a_whole_spool_is_the_users_own(server, info, spool, tmp_path):
    """Such as a run's folder on another disk."""
    (spool / "files" / "x").write_text("mine")
    write_events(spool, {"kind": "artifact", "path": "a/x", "file": "x"})
    (tmp_path / "link").symlink_to(spool, target_is_directory=True)
    deliver(TrackOptions(tmp_path / "link", server.url))
    client, run = run_of(server, info)
    assert everything_of(client, run) == {"a/x": b"mine"}
    assert not (spool / "rejected.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"uid": "x' or tags.kind = 'train"}, "no valid uid"),
        ({"uid": 7}, "no valid uid"),
        ({"tags": ["kind"]}, "no valid tags"),
        ({"params": {"a": 1}}, "no valid params"),
        ({"started": "now"}, "no valid started"),
        ({"shape": "of a later version"}, "has shape, which a later version wrote"),
    ],
)
def test_a_run_that_is_not_described(spool, info, change, said):
    (spool / "run.json").write_text(json.dumps({**asdict(info), **change}))
    write_events(spool)
    with pytest.raises(UserError, match=said):
        deliver(TrackOptions(spool, "http://127.0.0.1:9", patience_seconds=0))


@pytest.mark.parametrize(
    "lines", ['[]\n3\n"x"\n', "{}\n", '{"kind": 3}\n', "\n", "[" * 100_000 + "\n", "\xff\n"]
)
def test_lines_that_are_no_events(server, info, spool, lines):
    write_events(spool)
    events = (spool / "events.jsonl").read_text()
    (spool / "events.jsonl").write_text(lines + events, encoding="latin-1")
    deliver(TrackOptions(spool, server.url))
    client, run = run_of(server, info)
    assert points(client, run, "loss") == [(1, 1.0), (2, 1.0)]
    assert (spool / "rejected.jsonl").read_text().count("\n") == lines.count("\n")
