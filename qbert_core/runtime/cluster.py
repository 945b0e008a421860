"""The workers of a Dask cluster, one lane each. Dask is needed here alone, and imported when asked for.

Whoever reaches a Dask scheduler can run code on all its workers: beyond this machine TLS is required, with
which only holders of a certificate of the same authority get in.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbert_core.curvature import Analysis, Compute, RunResult
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events
from qbert_core.runtime.executors import on_crew
from qbert_core.runtime.lanes import Lane
from qbert_core.runtime.worker import Parcel, stop

if TYPE_CHECKING:
    from distributed import Client

DEPTH = 2  # tasks a worker has: the next one's data travel while the first is computed
LOOK = 1.0  # seconds between two questions who is there
CONNECT = (10.0, 3.0)  # seconds for the first attempt, and for one to find it again
PATIENCE = 120.0  # seconds without a scheduler or any worker


@dataclass(frozen=True)
class Cluster:
    """Where a Dask scheduler is and how to reach it.

    `folder`: one that every worker sees under the same path; large things go there instead of over the
    scheduler's connections. Raises `InputError` for an address beyond this machine without TLS, unless
    `insecure`, and for a part of a TLS identity.
    """

    address: str  # tcp://HOST:PORT or tls://HOST:PORT
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    folder: Path | None = None
    insecure: bool = False
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        scheme, separator, rest = self.address.partition("://")
        host, colon, port = rest.rpartition(":")
        if not separator or scheme not in ("tcp", "tls") or not colon or not host or not port.isdecimal():
            raise InputError(
                f"scheduler is {self.address!r}; expected tls://HOST:PORT, or tcp://HOST:PORT on this machine"
            )
        files = {"--tls-ca": self.ca, "--tls-cert": self.certificate, "--tls-key": self.key}
        if scheme == "tls":
            for option, file in files.items():
                if file is None:
                    raise InputError(f"a tls:// scheduler needs {', '.join(files)}; {option} is missing")
                if not file.is_file():
                    raise InputError(f"{option}: there is no file {file}")
        elif any(files.values()):
            raise InputError("TLS files were given, but the scheduler is tcp://; expected tls://HOST:PORT")
        elif not self.insecure and not _is_loopback(host):
            raise InputError(
                f"{self.address} is beyond this machine and without TLS: anybody who reaches such a scheduler "
                f"can run code on its workers. Use tls:// (docs/scaling.md), or --insecure in a network of "
                f"your own"
            )
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"--shared-folder: there is no folder {self.folder}")


def on_cluster(analysis: Analysis, cluster: Cluster, events: Events, threads: int = 1) -> Compute:
    """Compute runs on a Dask cluster; its workers may come and go.

    Raises `InputError` where Dask is not installed, the scheduler is not found (again) in time, or workers
    run another version of the engine.
    """
    compute_there = on_crew(analysis, lambda: DaskCrew(cluster), events, threads)

    def compute(runs: Sequence[int]) -> Iterator[RunResult]:
        try:
            yield from compute_there(runs)
        except ImportError as error:  # a worker that unpickles what it has no module for
            raise InputError(
                f"a worker cannot load qbert_core ({error}): start workers in the checkout, with "
                f"requirements-cluster.txt installed"
            ) from None

    return compute


class DaskCrew:
    """The workers of a cluster, as they come and go."""

    def __init__(self, cluster: Cluster) -> None:
        try:
            import dask
            import distributed
        except ImportError:
            raise InputError(
                "--scheduler needs Dask: pip install -r requirements-cluster.txt (here and on the workers)"
            ) from None
        dask.config.set(
            {"distributed.admin.large-graph-warning-threshold": "4GB"}
        )  # the model goes with a task
        self._distributed = distributed
        self._cluster = cluster
        self._lanes: dict[str, Lane] = {}
        self._hung: set[str] = set()  # addresses given up
        self._client: Client | None = None
        self._looked = 0.0
        self._alone_since = time.monotonic()  # no worker since
        self._gone_since: float | None = None  # the scheduler
        self._connect(CONNECT[0])

    def lanes(self) -> list[Lane]:
        if time.monotonic() - self._looked < LOOK:
            return list(self._lanes.values())
        try:
            if self._client is None or self._client.status != "running":
                raise OSError("not connected")
            there: dict[str, int] = self._client.nthreads()
        except (OSError, TimeoutError):
            return self._look_for_it()
        self._looked = time.monotonic()
        self._lanes = {address: lane for address, lane in self._lanes.items() if address in there}
        for address in there:
            if address not in self._lanes and address not in self._hung:
                executor = self._client.get_executor(workers=[address], pure=False, retries=0)
                self._lanes[address] = Lane(address, executor.submit, DEPTH)
        if self._lanes:
            self._alone_since = self._looked
        elif self._looked - self._alone_since > self._cluster.patience:
            raise InputError(
                f"{self._cluster.address} has had no worker for {self._cluster.patience:g} s; finished runs "
                f"are kept: start workers, then this again"
            )
        return list(self._lanes.values())

    def hand_over(self, parcel: Parcel) -> bytes | str:
        """Bytes go with the task that needs them first: nothing of it waits for a worker that is gone."""
        folder = self._cluster.folder
        if folder is None:
            return parcel.data
        path = self._file(folder, parcel)
        if not path.exists():
            part = path.with_suffix(f".{time.time_ns()}")
            try:
                part.write_bytes(parcel.data)
                part.replace(path)  # whole or not at all
            except OSError as error:
                raise InputError(f"--shared-folder: {folder} cannot be written: {error.strerror}") from None
        return str(path)

    def forget(self, parcel: Parcel) -> None:
        if self._cluster.folder is not None:
            self._file(self._cluster.folder, parcel).unlink(missing_ok=True)

    def _file(self, folder: Path, parcel: Parcel) -> Path:
        return folder / f"{parcel.name.digest}.pickle"

    def lost(self, lane: Lane) -> None:
        if self._lanes.pop(lane.name, None) is not None:
            self._hung.add(lane.name)  # a worker that died comes back under another address

    def is_loss(self, error: BaseException) -> bool:
        distributed = self._distributed
        gone = (distributed.scheduler.KilledWorker, distributed.client.FutureCancelledError)
        # what a connection that breaks in the middle ends in; no task of ours opens files or sockets
        return isinstance(error, (*gone, OSError, TimeoutError))

    def close(self, session: str) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(Exception):  # a cluster that is gone needs no telling
            if client.status == "running":
                client.run(stop, session, on_error="ignore", wait=True)
        with contextlib.suppress(Exception):
            client.close(timeout=1)

    def _connect(self, seconds: float) -> None:
        cluster = self._cluster
        security = None
        if cluster.ca is not None:
            security = self._distributed.Security(
                tls_ca_file=str(cluster.ca),
                tls_client_cert=str(cluster.certificate),
                tls_client_key=str(cluster.key),
                require_encryption=True,
            )
        try:
            self._client = self._distributed.Client(
                cluster.address, security=security, timeout=seconds, set_as_default=False
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"no Dask scheduler answers at {cluster.address}: {_brief(error)}") from None

    def _look_for_it(self) -> list[Lane]:
        """Try to find the scheduler again, started anew perhaps: what it knew is then gone, workers too."""
        self._lanes, self._hung = {}, set()
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close(timeout=1)
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        try:
            self._connect(CONNECT[1])
        except InputError:
            if now - self._gone_since > self._cluster.patience:
                raise InputError(
                    f"the Dask scheduler at {self._cluster.address} is gone; finished runs are kept: "
                    f"start the cluster, then this again"
                ) from None
        else:
            self._gone_since, self._alone_since = None, now
        return []


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
