"""Hidden states kept between evaluations, within a fixed number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from torch import Tensor


@dataclass(frozen=True, eq=False)
class State:
    """A batch in front of layer k: its hidden state, and the attention KL of the layers behind it."""

    hidden: Tensor  # (B, T, hidden)
    kl: Tensor | None  # (k, B, heads) in nats, None when attention was not measured

    @property
    def nbytes(self) -> int:
        return self.hidden.nbytes + (self.kl.nbytes if self.kl is not None else 0)


class StateCache:
    """Least recently used states go first. Keys are (batch, prefix key). Safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._states: OrderedDict[tuple[int, str], State] = OrderedDict()
        self._lock = Lock()

    def get(self, batch: int, key: str) -> State | None:
        with self._lock:
            state = self._states.get((batch, key))
            if state is not None:
                self._states.move_to_end((batch, key))
            return state

    def put(self, batch: int, key: str, state: State) -> None:
        with self._lock:
            old = self._states.pop((batch, key), None)
            if old is not None:
                self.nbytes -= old.nbytes
            self._states[batch, key] = state
            self.nbytes += state.nbytes
            while self.nbytes > self.capacity:
                _, dropped = self._states.popitem(last=False)
                self.nbytes -= dropped.nbytes
