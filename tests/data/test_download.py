import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest
from conftest import stand_in

import trac
from trac.data import download, trajectories
from trac.data.hdf5 import DatasetUnavailable
from trac.data.tasks import TASKS
from trac.data.trajectories import DatasetError

TASK = "CarRun"  # SafetyCarRun-v0-40-651.hdf5: 651 episodes, the costliest 40
NAME = TASKS[TASK].file
PIECE = 1 << 14  # bytes; a cut loses what is less than one


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return stand_in(tmp_path_factory.mktemp("genuine") / NAME)


class Server(ThreadingHTTPServer):
    """Serves `content` under any path, badly in the ways that `behaviour` says, one for each request in turn."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.behaviour, self.version = content, [], '"1"'
        self.log = []  # (status, Range)
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/files"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, span = self.server, self.headers.get("Range")
        how = server.behaviour.pop(0) if server.behaviour else "good"
        if how == "silent":
            return server.released.wait(20)
        if isinstance(how, int):
            server.log.append((how, span))
            return self.send_error(how)
        body, start = server.content, 0
        if span and how != "whole" and self.headers.get("If-Range") == server.version:
            start = int(span.removeprefix("bytes=").removesuffix("-"))
        server.log.append((206 if start else 200, span))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if how != "length unknown":
            self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", server.version)
        self.end_headers()
        half = start + (len(body) - start) // 2
        if how in ("good", "whole"):
            self.wfile.write(body[start:])
        else:  # "cut", "stalled", "length unknown"
            self.wfile.write(body[start:half])
            self.wfile.flush()
        if how == "stalled":
            server.released.wait(20)
        if how == "waits":
            server.released.wait(20)
            self.wfile.write(body[half:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(content):
    server = Server(content)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch, server):
    """DSRL's folder, and one mirror."""
    monkeypatch.setenv("DSRL_DATASET_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRAC_DSRL_MIRROR", raising=False)
    monkeypatch.setattr(download, "MIRRORS", (server.address,))
    return tmp_path / "cache"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


KEPT = [NAME, f"{NAME}.lock"]


def test_a_file_is_fetched_once(server, folder, content):
    data = trac.load(TASK, source="dsrl")
    assert (folder / NAME).read_bytes() == content and names(folder) == KEPT
    assert len(data.starts) == 651 and data.reward_range == (TASKS[TASK].min_return, TASKS[TASK].max_return)
    assert trac.load(TASK, source="dsrl").next_observations.shape == (1302, 7)
    assert server.log == [(200, None)]


def test_the_folder_is_dsrls(monkeypatch):
    offline_env = pytest.importorskip("dsrl.offline_env")
    url = f"http://example.org/{NAME}"
    monkeypatch.delenv("DSRL_DATASET_DIR", raising=False)
    monkeypatch.setattr(offline_env, "DATASET_PATH", os.path.expanduser("~/.dsrl/datasets"))
    assert str(download.dsrl_folder() / NAME) == offline_env.filepath_from_url(url)


def test_the_second_mirror_is_dsrl_0_1_0s():
    infos = pytest.importorskip("dsrl.infos")
    assert infos.DATASET_URLS[TASK] == f"{download.MIRRORS[-1]}/{NAME}"


def test_a_users_mirror_comes_first(server, folder, monkeypatch):
    monkeypatch.setattr(download, "MIRRORS", ("http://127.0.0.1:9/dead",))
    monkeypatch.setenv("TRAC_DSRL_MIRROR", server.address + "/")
    assert download.fetch(TASK).is_file() and len(server.log) == 1


def test_a_cut_transfer_is_resumed_from_where_it_was_cut(server, folder, content, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    server.behaviour = ["cut", "cut"]
    assert download.fetch(TASK).read_bytes() == content and names(folder) == KEPT
    had = len(content) // 2 // PIECE * PIECE
    more = had + (len(content) - had) // 2 // PIECE * PIECE
    assert server.log == [(200, None), (206, f"bytes={had}-"), (206, f"bytes={more}-")]


def test_a_later_call_resumes_too_but_not_another_version(server, folder, content, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    server.behaviour = ["cut", 500]
    with pytest.raises(DatasetError, match="HTTPError: 500 Server Error"):
        download.fetch(TASK)
    had = len(content) // 2 // PIECE * PIECE
    assert (folder / f"{NAME}.part").read_bytes() == content[:had]
    server.behaviour, server.version = ["cut"], '"2"'
    with pytest.raises(DatasetError, match="IncompleteRead"):  # it begins anew, and comes no further than the first
        download.fetch(TASK)
    assert download.fetch(TASK).read_bytes() == content and names(folder) == KEPT
    span = f"bytes={had}-"
    assert server.log == [(200, None), (500, span), (200, span), (206, span)]


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, folder, content, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    server.behaviour = ["cut", "whole"]
    assert download.fetch(TASK).read_bytes() == content
    assert [status for status, _ in server.log] == [200, 200]


def test_a_server_that_stops_sending_is_left_and_resumed(server, folder, content, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(download, "TIMEOUTS", (1.0, 0.3))
    server.behaviour = ["stalled"]
    assert download.fetch(TASK).read_bytes() == content
    assert server.log == [(200, None), (206, f"bytes={len(content) // 2 // PIECE * PIECE}-")]


def test_the_next_mirror_is_tried_where_one_fails(server, folder, content, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", (1.0, 0.3))
    monkeypatch.setattr(download, "MIRRORS", ("http://127.0.0.1:9/dead", *[f"{server.address}/{i}" for i in range(5)]))
    server.behaviour = [404, "silent", 500, "length unknown"]
    assert download.fetch(TASK).read_bytes() == content
    assert [status for status, _ in server.log] == [404, 500, 200, 200]


def test_when_nothing_is_reachable_one_error_says_it_all(server, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUTS", (1.0, 0.3))
    mirrors = ("http://127.0.0.1:9/dead", *[f"{server.address}/{name}" for name in "abc"])
    monkeypatch.setattr(download, "MIRRORS", mirrors)
    server.content, server.behaviour = b"<html>maintenance</html>" * 99, ["good", 404, "silent"]
    with pytest.raises(DatasetError) as caught:
        trac.load(TASK, source="dsrl")
    first, dead, wrong, missing, silent, last = str(caught.value).split("\n")
    assert first == "DSRL's file of CarRun could not be fetched:"
    assert f"http://127.0.0.1:9/dead/{NAME}: " in dead and "Connection refused" in dead
    assert f"{server.address}/a/{NAME}: " in wrong and "not a readable HDF5 file" in wrong
    assert f"{server.address}/b/{NAME}: HTTPError: 404 Client Error: Not Found" in missing
    assert silent.endswith(f"{server.address}/c/{NAME}: TimeoutError: timed out")
    assert str(folder) in last and "TRAC_DSRL_MIRROR" in last
    assert "trac.load('BallCircle'), trac.load('BallRun'), trac.load('CarCircle')" in last
    assert names(folder) == [f"{NAME}.lock"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(episodes=300), "holds 300 finished episodes, and SafetyCarRun-v0-40-651.hdf5 should hold 651"),
        (dict(largest_cost=100.0), "the largest episode cost is 100, and SafetyCarRun-v0-40-651.hdf5 should have 40"),
        (dict(largest_cost=9.0), "the largest episode cost is 9"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(server, folder, tmp_path, change, message):
    server.content = stand_in(tmp_path / "other.hdf5", **change)
    with pytest.raises(DatasetError, match=message):
        download.fetch(TASK)
    assert names(folder) == [f"{NAME}.lock"]


def test_the_check_passes_what_dsrl_says_of_its_files(tmp_path):
    infos = pytest.importorskip("dsrl.infos")
    for name, task in TASKS.items():
        count = int(task.file.removesuffix(".hdf5").split("-")[-1])
        with h5py.File(tmp_path / task.file, "w") as file:
            file.update({key: np.ones((count, 1)) for key in trajectories.KEYS})
            file["costs"][...] = np.linspace(infos.MIN_EPISODE_COST[name], infos.MAX_EPISODE_COST[name], count)[:, None]
        download.check(tmp_path / task.file, task.file)


def test_a_file_that_cannot_be_read_now_is_left_where_it_is(server, folder, content):
    folder.mkdir()
    (folder / NAME).write_bytes(content)
    script = f"import h5py; file = h5py.File({str(folder / NAME)!r}, 'r+'); print(flush=True); input()"
    writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writer.stdout.readline()
    try:
        with pytest.raises(DatasetUnavailable, match="another process is writing it"):
            trac.load(TASK, source="dsrl")
    finally:
        writer.kill()
        writer.communicate()
    assert server.log == [] and not (folder / f"{NAME}.damaged").exists()


def test_a_whole_file_put_there_by_hand_is_used(server, folder, content):
    folder.mkdir()
    (folder / NAME).write_bytes(content)
    assert len(trac.load(TASK, source="dsrl").starts) == 651
    assert server.log == [] and names(folder) == [NAME]


def test_a_file_that_is_another_one_is_said_and_left_as_it_is(server, folder, content, tmp_path):
    folder.mkdir()
    other = stand_in(tmp_path / "other.hdf5", episodes=300)
    for wrong, message in (
        (content[:-3000], "truncated"),
        (other, "holds 300 finished episodes, .* should hold 651. Delete the file to"),
    ):
        (folder / NAME).write_bytes(wrong)
        with pytest.raises(DatasetError, match=message):
            trac.load(TASK, source="dsrl")
        assert (folder / NAME).read_bytes() == wrong and names(folder) == [NAME] and server.log == []


def test_a_part_that_the_server_has_no_more_of_is_fetched_again(server, folder, content, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    folder.mkdir()
    (folder / f"{NAME}.part").write_bytes(content)
    (folder / f"{NAME}.part.from").write_text(f"{server.address}/{NAME}\n{server.version}")
    server.behaviour = [416]
    assert download.fetch(TASK).read_bytes() == content and names(folder) == KEPT
    assert [status for status, _ in server.log] == [416, 200]


def test_a_server_that_names_no_version_and_cuts_is_left(server, folder, content, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    server.behaviour, server.version = ["cut"] * 9, ""
    with pytest.raises(DatasetError, match="IncompleteRead"):
        download.fetch(TASK)
    assert [status for status, _ in server.log] == [200, 200]


def test_two_processes_fetch_one_file_once(server, folder, content):
    server.behaviour = ["waits"]
    script = (
        f"from trac.data import download; print('ready', flush=True); print(download.fetch({TASK!r}).stat().st_size)"
    )
    environment = os.environ | {"TRAC_DSRL_MIRROR": server.address, "TQDM_DISABLE": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    time.sleep(1)  # long enough for the second to ask the server, too, if it did not wait
    assert [process.poll() for process in processes] == [None] * 2
    server.released.set()
    assert [int(process.communicate(timeout=60)[0]) for process in processes] == [len(content)] * 2
    assert len(server.log) == 1 and names(folder) == KEPT


def test_a_full_disk_is_said_and_what_came_is_kept(server, tmp_path, monkeypatch, content):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small tmpfs")
    try:
        monkeypatch.setenv("DSRL_DATASET_DIR", str(disk))
        monkeypatch.setattr(download, "MIRRORS", (server.address,))
        with pytest.raises(DatasetError, match=r"could not be written \(.*No space left on device.*DSRL_DATASET_DIR"):
            download.fetch(TASK)
        assert not (disk / NAME).exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert download.fetch(TASK).read_bytes() == content
        assert [status for status, _ in server.log] == [200, 206]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
