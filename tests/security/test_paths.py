"""No name in a file, a listing or an annotation of somebody leads out of the folder that it belongs to."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.benchmarks.rows import AnnotationError
from pipelines.evaluation.benchmarks.videos import find_video
from pipelines.ingest.naming import slug
from pipelines.ingest.sources import find_sources
from pipelines.inside import inside, is_inside
from pipelines.manifest_io import read_manifest, write_manifest
from pipelines.registry.transfer import fetch_model
from pipelines.shard_ranges import ShardRanges
from pipelines.storage import LocalStorage, Storage, open_storage
from pipelines.stored_file import StoredFile
from pipelines.training.checkpoint_files import Checkpoint
from pipelines.training.mirror_back import bring_back
from pipelines.training.run_directory import RunDirectory
from tests.pipelines.test_manifest_io import make_manifest
from vamba.data.sample import MAX_ID_CHARS

CLIMBING = (
    "../secret",
    "a/../../secret",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    "a/..",
    "\0",
    "a\0/../b",
    "../" * 40 + "etc/passwd",
)
PLAIN = ("a", "a/b.mp4", "..a", "a..", "...", "..\\..\\secret", "C:\\x", "ä/\u202e", "a\nb", "-rf", "a" * 255)


@pytest.mark.parametrize("name", CLIMBING)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    assert not is_inside(name)
    with pytest.raises(ValueError, match="lead out of"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_stay_what_they_are(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name) == tmp_path / name
    assert tmp_path in (tmp_path / name).resolve().parents


@pytest.mark.parametrize("name", CLIMBING)
def test_a_storage_reads_writes_and_deletes_inside_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("kept")
    storage = open_storage(tmp_path / "root" / "deep")
    assert isinstance(storage, LocalStorage)
    storage.write_atomic("a", b"")
    actions: list[Any] = [storage.read_bytes, storage.read_version, storage.exists, storage.delete]
    actions += [storage.delete_tree, storage.scratch_dir, storage.list, lambda path: storage.create(path, b"x")]
    actions += [lambda path: storage.write_atomic(path, b"x"), lambda path: storage.read_range(path, 0, 1)]
    actions += [lambda path: storage.put_file(path, tmp_path / "secret")]
    for action in actions:
        with pytest.raises(ValueError, match="lead out of"):
            action(name)
    assert (tmp_path / "secret").read_text() == "kept"


@pytest.mark.parametrize("shard", ["../../secret.tar", "/etc/passwd"])
def test_a_manifest_names_shards_of_its_dataset_alone(shard: str, tmp_path: Path) -> None:
    manifest = make_manifest()
    rows = tuple(replace(row, shard=shard) for row in manifest.samples)
    write_manifest(tmp_path, replace(manifest, samples=rows, shards=(replace(manifest.shards[0], name=shard),)))
    row = read_manifest(tmp_path).samples[0]
    with pytest.raises((ValueError, FileNotFoundError)) as error:  # "shards//etc/passwd" is below `shards`
        ShardRanges(open_storage(tmp_path))(row.shard, 0, 10)
    assert "lead out of" in str(error.value) or str(tmp_path) in str(error.value)


class _Bucket:
    """An object store, whose keys may be any text."""

    uri = "s3://bucket/model"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def list(self, prefix: str = "") -> list[StoredFile]:
        return [
            StoredFile(path=key, size_bytes=len(data)) for key, data in self.files.items() if key.startswith(prefix)
        ]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self.files[path][offset : offset + length]

    def read_bytes(self, path: str) -> bytes:
        return self.files[path]

    def exists(self, path: str) -> bool:
        return path in self.files


def bucket(files: dict[str, bytes]) -> Storage:
    return _Bucket(files)  # type: ignore[return-value]


@pytest.mark.parametrize("key", ["/escaped", "a/../../../escaped", "../escaped"])
def test_a_pulled_model_lands_in_its_folder(key: str, tmp_path: Path) -> None:
    absolute = f"{tmp_path}/escaped" if key.startswith("/") else key
    target = tmp_path / "a" / "model"
    target.parent.mkdir()
    try:
        fetch_model(bucket({"config.json": b"{}", absolute: b"x"}), target)
    except ValueError as error:
        assert "lead out of" in str(error)
    assert not list(tmp_path.rglob("escaped"))


def test_a_mirror_brings_records_into_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.training import mirror_back

    meta = json.dumps({"format_version": 3, "step": 1, "files": {}}).encode()
    files = {"mirror.json": b'{"mirror_id": "m"}', "metrics/../../../escaped": b"x", "run.json": b"{}"}
    files |= {"checkpoints/step_00000001/meta.json": meta}
    monkeypatch.setattr(mirror_back, "open_storage", lambda uri: bucket(files))
    monkeypatch.setattr(mirror_back, "OWNER_NAME", "mirror.json")
    monkeypatch.setattr(mirror_back, "mirrored_steps", lambda storage: [1])
    monkeypatch.setattr(mirror_back, "checkpoint_prefix", lambda step: "checkpoints/step_00000001")
    directory = RunDirectory(tmp_path / "runs" / "r")
    directory.checkpoints.mkdir(parents=True)
    with pytest.raises(ValueError, match="lead out of"):
        bring_back("s3://bucket/runs", directory, lambda text: None)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_the_list_of_a_checkpoint_names_its_own_files(name: str, tmp_path: Path) -> None:
    described = {name: {"size_bytes": 0, "sha256": ""}}
    found = Checkpoint(directory=tmp_path / "step_00000001", step=1, meta={"files": described})
    assert "outside of its folder" in str(found.find_damage())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.mp4", "x\0.mp4"])
def test_annotations_name_videos_of_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="outside of its folder"):
        find_video([tmp_path], name)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\0b", "\n", "é" * 4000, "-", "....//"]
)
def test_an_id_is_a_plain_name(path: str) -> None:
    name = slug(path)
    assert 0 < len(name) <= MAX_ID_CHARS
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


def tar_of(members: list[tuple[str, bytes, bytes, str]], path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, data, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), link
            archive.addfile(info, io.BytesIO(data))
    return path


def test_members_of_a_tar_are_ranges_of_it_whatever_they_are_called(tmp_path: Path) -> None:
    names = [
        "../../etc/passwd.mp4",
        "/etc/passwd.mp4",
        "a\n.mp4",
        "w\\x.mp4",
        "\u202eevil.mp4",
        "-y.mp4",
        "l" * 3000 + ".mp4",
    ]
    members = [(name, tarfile.REGTYPE, b"film", "") for name in names]
    members += [("s.mp4", tarfile.SYMTYPE, b"", "/etc/passwd"), ("h.mp4", tarfile.LNKTYPE, b"", "/etc/passwd")]
    members += [("d.mp4", tarfile.CHRTYPE, b"", ""), ("f.mp4", tarfile.FIFOTYPE, b"", "")]
    archive = tar_of(members, tmp_path / "x.tar")
    with find_sources([str(archive)]) as found:
        sources = list(found.videos())
    assert len(sources) == len(names), "links, devices and pipes are no samples"
    for source in sources:
        assert source.location.uri == str(archive), "the bytes are those of the tar"
        assert source.location.length_bytes == 4
        assert set(source.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"a":' * 100_000, b'{"conversations": ' + b"[" * 100_000, b"\xff\xfe", b"NaN"]
)
def test_a_hostile_text_of_a_sample_is_a_failure_of_that_sample(text: bytes, tmp_path: Path) -> None:
    members = [("a.mp4", tarfile.REGTYPE, b"film", ""), ("a.json", tarfile.REGTYPE, text, "")]
    members += [("b.mp4", tarfile.REGTYPE, b"film", "")]
    with find_sources([str(tar_of(members, tmp_path / "x.tar"))]) as found:
        problems = {item.source.id: item.problem for item in found.store.sources()}
    assert problems["x-a"] is not None and problems["x-b"] is None


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_hostile_row_of_a_listing_is_told_as_what_it_is(ending: str, tmp_path: Path) -> None:
    listing = tmp_path / f"l.{ending}"
    listing.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"l\.json"):
        find_sources([str(listing)])
