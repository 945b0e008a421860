"""A real Dask cluster on this machine: the same numbers, whatever happens to its processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from qbert_core.checkpoints import Checkpoint
from qbert_core.cli import main
from qbert_core.curvature import Analysis, blocks_of, sensitivity
from qbert_core.errors import Cancelled, InputError
from qbert_core.parallel import torch_threads
from qbert_core.runtime.cluster import Cluster, on_cluster
from qbert_core.runtime.events import Silent
from qbert_core.tasks import Examples, task_named
from tests.places import check_place
from tests.server import START

SST2 = task_named("sst2")
SENTENCES = ("good", "a bad film", "very slow", "they like it", "clever", "the actor was great", "awful")
ROOT = Path(__file__).resolve().parents[2]
RUNS = 12


class Machines:
    """A scheduler and workers, each a process of its own, to be started and killed."""

    def __init__(self, folder: Path, tls: list[str] | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"{'tls' if tls else 'tcp'}://127.0.0.1:{self.port}"
        self._folder, self._tls = folder, tls or []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler: subprocess.Popen[bytes] | None = None

    def start_scheduler(self) -> None:
        where = ["--host", self.address.rpartition(":")[0], "--port", str(self.port)]
        self.scheduler = self._start("scheduler", *where, "--no-dashboard")

    def start_worker(self) -> None:
        where = ["--local-directory", str(self._folder), "--no-dashboard"]
        self.workers.append(self._start("worker", self.address, "--nthreads", "1", "--no-nanny", *where))

    def _start(self, kind: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, *self._tls]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self._folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, cwd=self._folder, stdout=log, stderr=log)

    def complete(self) -> None:
        """Start what is missing of a scheduler and two workers; a worker that stands still is missing."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.__exit__()  # its workers know nobody any more
            self.start_scheduler()
            self._await_scheduler()
        for worker in self.workers:
            if worker.poll() is None and psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED:
                worker.kill()
                worker.wait()
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        while len(self.workers) < 2:
            self.start_worker()

    def _await_scheduler(self) -> None:
        """Until it takes connections: on a busy machine it imports longer than a client waits for it."""
        deadline = time.monotonic() + START
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.scheduler is not None
                assert self.scheduler.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def __enter__(self) -> Machines:
        self.start_scheduler()
        self._await_scheduler()
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.workers, self.scheduler]:
            if process is not None:
                process.kill()
                process.wait()
        self.workers, self.scheduler = [], None


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    table = pd.DataFrame({"sentence": SENTENCES, "label": [i % 2 for i in range(len(SENTENCES))]})
    return SST2.examples(table, tiny, "seven sentences")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def cluster_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Processes that have to import torch and Dask take longer to start than most tests here to run."""
    pytest.importorskip("distributed")
    with Machines(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def machines(cluster_of_the_module: Machines) -> Machines:
    """A scheduler and two workers, whatever an earlier test did to them."""
    cluster_of_the_module.complete()
    return cluster_of_the_module


class After(Silent):
    """Does something once, when so many blocks are done."""

    def __init__(self, blocks: int, act: Callable[[], None]) -> None:
        self.blocks, self.act = blocks, act
        self.acted = False

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        if done >= self.blocks and not self.acted:
            self.acted = True
            self.act()


def check_disturbed(
    tiny: Checkpoint, examples: Examples, cluster: Cluster, act: Callable[[], None], shards: int = 1
) -> None:
    """`act` in the middle of an analysis changes no number of it."""
    events = After(2 if shards > 1 else 8, act)
    runs = 2 if shards > 1 else RUNS
    analysis = Analysis(tiny, SST2, examples, blocks_of(tiny.config), 0.8, 0.01, 2, shards=shards)
    found = sensitivity(
        tiny, SST2, examples, runs=runs, fraction=0.8, seed=2, shards=shards, events=events,
        compute=on_cluster(analysis, cluster, events),
    )  # fmt: skip
    assert events.acted
    here = sensitivity(tiny, SST2, examples, runs=runs, fraction=0.8, seed=2, shards=shards)
    assert replace(found, seconds=0.0) == replace(here, seconds=0.0)


def test_a_cluster_gives_the_numbers_of_one_process(
    tiny: Checkpoint, examples: Examples, machines: Machines, tmp_path: Path
) -> None:
    for shards, folder in ((1, None), (2, None), (1, tmp_path)):
        place = partial(on_cluster, cluster=Cluster(machines.address, folder=folder))
        check_place(place, tiny, examples, "layer", shards)
    assert len(list(tmp_path.glob("*.pickle"))) == 2  # the model and the analysis


@pytest.mark.parametrize("shards", [1, 3])
def test_a_worker_killed_in_the_middle_and_one_that_comes_cost_nothing(
    tiny: Checkpoint, examples: Examples, machines: Machines, shards: int
) -> None:
    def act() -> None:
        machines.workers[0].kill()
        machines.start_worker()

    check_disturbed(tiny, examples, Cluster(machines.address), act, shards)


def test_a_worker_that_stands_still_is_not_waited_for(
    tiny: Checkpoint, examples: Examples, machines: Machines
) -> None:
    def act() -> None:
        machines.workers[0].send_signal(signal.SIGSTOP)

    check_disturbed(tiny, examples, Cluster(machines.address), act)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_scheduler_started_again_is_found_again(
    tiny: Checkpoint, examples: Examples, machines: Machines, shards: int
) -> None:
    def act() -> None:
        assert machines.scheduler is not None
        for process in (machines.scheduler, *machines.workers):
            process.kill()
            process.wait()
        machines.start_scheduler()
        machines.start_worker()

    check_disturbed(tiny, examples, Cluster(machines.address), act, shards)


def test_a_scheduler_that_stays_away_is_an_error_that_keeps_finished_runs(
    tiny: Checkpoint, examples: Examples, machines: Machines
) -> None:
    def act() -> None:
        assert machines.scheduler is not None
        machines.scheduler.kill()

    kept: list[int] = []
    events = After(8, act)
    analysis = Analysis(tiny, SST2, examples, blocks_of(tiny.config), 0.8, 0.01, 2)
    compute = on_cluster(analysis, Cluster(machines.address, patience=1.0), events)
    with pytest.raises(InputError, match=r"is gone; finished runs are kept: start the cluster"):
        sensitivity(
            tiny, SST2, examples, runs=500, fraction=0.8, seed=2, events=events, compute=compute,
            on_run=lambda result: kept.append(result.run),
        )  # fmt: skip
    assert kept


class Cancel(Silent):
    """Cancels when the first block is there; notes when."""

    def __init__(self) -> None:
        self.when = 0.0
        self.now = False

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        self.now = True

    def check(self) -> None:
        if self.now:
            self.when = time.monotonic()
            raise Cancelled


def test_a_cancel_ends_the_workers_tasks_at_once(tiny: Checkpoint, machines: Machines) -> None:
    """A product over these rows takes seconds; the workers leave it between two layers."""
    from distributed import Client

    rows = [f"{a} {b} {c} film" for a in SENTENCES for b in SENTENCES for c in SENTENCES] * 4
    table = pd.DataFrame({"sentence": rows, "label": [i % 2 for i in range(len(rows))]})
    many = SST2.examples(table, tiny, "many sentences")
    events = Cancel()
    analysis = Analysis(tiny, SST2, many, blocks_of(tiny.config), 1.0, 0.01, 2)
    with pytest.raises(Cancelled):
        sensitivity(
            tiny, SST2, many, runs=8, fraction=1.0, seed=2, events=events,
            compute=on_cluster(analysis, Cluster(machines.address), events),
        )  # fmt: skip
    told = time.monotonic() - events.when
    assert told < 3  # 1 s on an idle machine
    with Client(machines.address, set_as_default=False) as client:
        deadline = time.monotonic() + 3
        while any(client.processing().values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(client.processing().values())


def authority(folder: Path) -> None:
    """The commands of docs/scaling.md."""
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    script = text.partition("<!-- certificates -->")[2].partition("```sh\n")[2].partition("```")[0]
    subprocess.run(["bash", "-euc", script], cwd=folder, check=True, capture_output=True)


def test_tls_as_documented_lets_in_whom_the_authority_signed_and_nobody_else(
    tmp_path: Path, tiny: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        authority(folder)
    assert (ours / "key.pem").stat().st_mode & 0o077 == 0
    tls = [f"--tls-ca-file={ours}/ca.pem", f"--tls-cert={ours}/cert.pem", f"--tls-key={ours}/key.pem"]
    rows = tmp_path / "rows.csv"
    rows.write_text("sentence,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(SENTENCES)))
    with Machines(tmp_path, tls) as machines:
        machines.start_worker()
        command = ["sensitivity", str(tiny.folder), "--task", "sst2", "--train", str(rows), "--runs", "2",
                   "--fraction", "0.5"]  # fmt: skip
        identity = [
            "--tls-ca",
            f"{ours}/ca.pem",
            "--tls-cert",
            f"{ours}/cert.pem",
            "--tls-key",
            f"{ours}/key.pem",
        ]
        assert main([*command, "--scheduler", machines.address, *identity]) == 0
        found = json.loads(capsys.readouterr().out)
        here = sensitivity(tiny, SST2, SST2.examples(pd.read_csv(rows), tiny, "rows"), runs=2, fraction=0.5)
        assert [block["lambdas"] for block in found["blocks"]] == [
            list(block.lambdas) for block in here.blocks
        ]
        stranger = Cluster(machines.address, theirs / "ca.pem", theirs / "cert.pem", theirs / "key.pem")
        plain = Cluster(machines.address.replace("tls", "tcp"))
        for cluster in (stranger, plain):
            analysis = Analysis(tiny, SST2, SST2.examples(pd.read_csv(rows), tiny, "rows"),
                                blocks_of(tiny.config), 0.5, 0.01, 0)  # fmt: skip
            with pytest.raises(InputError, match="no Dask scheduler answers at"):
                list(on_cluster(analysis, cluster, Silent())([0]))


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("127.0.0.1:8786", {}, "expected tls://HOST:PORT"),
        ("http://a:1", {}, "expected tls://HOST:PORT"),
        ("tcp://10.0.0.1:8786", {}, "can run code on its workers"),
        ("tcp://scheduler.example:8786", {}, "without TLS"),
        ("tls://10.0.0.1:8786", {}, "--tls-ca is missing"),
        ("tls://10.0.0.1:8786", {"ca": Path("nothing")}, "there is no file nothing"),
        ("tcp://127.0.0.1:8786", {"ca": Path("nothing")}, "expected tls://HOST:PORT"),
        ("tcp://127.0.0.1:8786", {"folder": Path("nothing")}, "there is no folder nothing"),
    ],
)
def test_a_wrong_address_is_a_clear_error(address: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cluster(address, **options)


@pytest.mark.parametrize("address", ["tcp://localhost:1", "tcp://127.0.0.1:1", "tcp://[::1]:1"])
def test_this_machine_needs_no_tls_and_elsewhere_one_may_insist(address: str) -> None:
    assert Cluster(address).address == address
    assert Cluster("tcp://10.0.0.1:1", insecure=True).insecure


def test_without_dask_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny: Checkpoint, examples: Examples
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    analysis = Analysis(tiny, SST2, examples, blocks_of(tiny.config), 0.5, 0.01, 0)
    with pytest.raises(InputError, match=r"pip install -r requirements-cluster\.txt"):
        list(on_cluster(analysis, Cluster("tcp://127.0.0.1:1"), Silent())([0]))


def test_dask_is_imported_for_a_scheduler_only() -> None:
    code = "import sys, qbert_core.cli.curvature, qbert_core.runtime.cluster; sys.exit('distributed' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
