"""Each process of a host with several GPUs takes one of its own."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from beam_gpte.core import devices
from beam_gpte.core.devices import choose_device

CARDS = 3


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let torch count three GPUs, which this machine need not have."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: CARDS)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    for _, handle in devices._taken:
        if handle >= 0:
            devices.os.close(handle)
    devices._taken.clear()


class Worker:
    """A process that says which device it has chosen, twice, and lives until its `end`."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")  # it inherits the count
        self._here, there = context.Pipe()
        self._process = context.Process(target=self._choose, args=(there,))
        self._process.start()
        self.device, self.again = self._here.recv()

    def _choose(self, there: Connection) -> None:
        there.send((choose_device("auto"), choose_device("cuda")))
        there.recv()

    def end(self) -> None:
        self._here.send("end")
        self._process.join()


@pytest.mark.usefixtures("cards")
def test_each_process_takes_a_card_and_more_processes_share_them() -> None:
    workers = [Worker() for _ in range(CARDS)]
    assert [worker.device for worker in workers] == ["cuda:0", "cuda:1", "cuda:2"]
    assert all(worker.again == worker.device for worker in workers)
    extra = Worker()
    assert extra.device in {worker.device for worker in workers}
    workers[1].end()
    assert choose_device("auto") == "cuda:1"
    for worker in (workers[0], workers[2], extra):
        worker.end()


@pytest.mark.usefixtures("cards")
def test_a_card_is_known_by_its_name_where_only_some_are_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6")
    first = Worker()
    assert first.device == "cuda:0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,4,6")  # 5 is free, 4 is taken
    assert choose_device("auto") == "cuda:0"
    second = Worker()
    assert second.device == "cuda:0"  # it has inherited the choice of this process
    for worker in (first, second):
        worker.end()


@pytest.mark.parametrize("asked", ["cpu", "cuda:2", "mps"])
@pytest.mark.usefixtures("cards")
def test_a_device_that_is_named_is_taken(asked: str) -> None:
    assert choose_device(asked) == asked


def test_one_gpu_or_none_needs_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [choose_device(asked) for asked in ("auto", "cuda")] == ["cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [choose_device(asked) for asked in ("auto", "cuda")] == ["cuda", "cuda"]
