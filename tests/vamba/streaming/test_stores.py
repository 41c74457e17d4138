"""What is put into a store comes out of it, whatever kind it is, read in any order and while more is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vamba.streaming.store import DeviceStore, TensorStore
from vamba.streaming.store_disk import DiskStore, Region, write_at

CPU = torch.device("cpu")
Open = Callable[[Path], TensorStore]
KINDS: dict[str, Open] = {
    "device": lambda _: DeviceStore(),
    "disk": lambda directory: DiskStore(CPU, str(directory)),
    "host": lambda _: _host_store(),
}


def _host_store() -> TensorStore:
    from vamba.streaming.store_host import HostStore

    return HostStore(torch.device("cuda"))


ALL_KINDS = [pytest.param(kind, marks=[pytest.mark.gpu] * (kind == "host")) for kind in KINDS]


def part(number: int, device: torch.device = CPU) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(number)
    made = (
        torch.randn(3 + number, 2, 5, generator=generator),
        torch.randn(7, generator=generator).to(torch.bfloat16),
        torch.zeros(0, 4),
        torch.tensor(number),
    )
    return tuple(tensor.to(device) for tensor in made)


def same(read: tuple[torch.Tensor, ...], number: int) -> bool:
    expected = part(number)
    return all(a.dtype == b.dtype and a.cpu().equal(b) for a, b in zip(read, expected, strict=True))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_parts_come_back(kind: str, tmp_path: Path) -> None:
    store = KINDS[kind](tmp_path)
    device = torch.device("cuda" if kind == "host" else "cpu")
    for number in range(5):
        store.append("a", (number, number + 1), part(number, device))
        store.append("b", (0, 1), part(number + 10, device))
    places = [("a", 4), ("b", 0), ("a", 0), ("a", 0), ("b", 3)]
    expected = (4, 10, 0, 0, 13)
    for tensors, number in zip(store.read(places), expected, strict=True):
        assert same(tensors, number) and all(tensor.device.type == device.type for tensor in tensors)
    assert store.spans("a") == tuple((n, n + 1) for n in range(5)) and store.spans("c") == ()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_parts_are_replaced_as_they_are_read(kind: str, tmp_path: Path) -> None:
    """As a backward pass does it: each part's gradients in its place, while the next is fetched."""
    store = KINDS[kind](tmp_path)
    device = torch.device("cuda" if kind == "host" else "cpu")
    for number in range(6):
        store.append("a", (number, number + 1), part(number, device))
    order = [5, 3, 4, 0]
    for index, tensors in zip(order, store.read(("a", index) for index in order), strict=True):
        store.replace(("a", index), tuple(-tensor for tensor in tensors))
    for index, tensors in enumerate(store.read(("a", index) for index in range(6))):
        assert same(tuple(-t for t in tensors) if index in order else tensors, index)
    store.drop("a")
    assert store.spans("a") == ()
    store.append("a", (0, 1), part(9, device))
    assert same(next(iter(store.read([("a", 0)]))), 9)
    store.close()


def test_files_have_no_names_and_parts_of_other_files_are_read_only(tmp_path: Path) -> None:
    store = DiskStore(CPU, str(tmp_path))
    store.append("a", (0, 3), part(0))
    assert list(tmp_path.iterdir()) == []
    tensor = torch.arange(12.0)
    with (tmp_path / "saved").open("w+b", buffering=0) as file:
        write_at(file, 16, tensor)
        store.adopt("a", (3, 5), (Region(file, 16 + 8, (5, 2), torch.float32),))
        own, adopted = store.read([("a", 0), ("a", 1)])
        assert same(own, 0) and adopted[0].equal(tensor[2:].view(5, 2))
        with pytest.raises(AssertionError, match="read-only"):
            store.replace(("a", 1), adopted)
        file.truncate(40)
        with pytest.raises(ValueError, match="ends at byte 40, within what was kept in it"):
            list(store.read([("a", 1)]))
    with pytest.raises(ValueError, match="name another `directory`"):
        DiskStore(CPU, str(tmp_path / "absent")).append("a", (0, 1), part(0))


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vamba.streaming.store_disk.write_at", full)
    store = DiskStore(CPU, str(tmp_path))
    with pytest.raises(OSError, match="can't be written to .*No space left on device.*name a `directory` with more"):
        for number in range(4):
            store.append("a", (number, number + 1), part(number))


def test_what_could_not_be_written_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not as a part that is missing when it is read."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vamba.streaming.store_disk.write_at", full)
    store = DiskStore(CPU, str(tmp_path))
    store.append("a", (0, 1), part(3))
    with pytest.raises(OSError, match=f"can't be written to {tmp_path}.*name a `directory` with more space"):
        list(store.read([("a", 0)]))
