"""Renders the Kustomize folders of `infra/kuberay` as `kubectl kustomize` does, as far as those folders use it.

A laptop that submits a job seldom has kubectl, and the manifests must not exist twice. So this reads the same files,
and refuses what it doesn't know instead of leaving it out. A test compares the two renderings of every folder.

    folder ─ resources ─> objects ─ components ─> ─ patches ─> ─ namespace, nameSuffix, labels, images ─> objects
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

_NAME = "kustomization.yaml"
_KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "namespace", "nameSuffix", "labels", "images"}
_CLUSTER_WIDE = {"Namespace", "ClusterQueue", "ResourceFlavor", "WorkloadPriorityClass"}


def render(folder: Path) -> list[Object]:
    """The objects of a kustomization. Raises ValueError for what this does not know, FileNotFoundError for no file."""
    return _built(folder.resolve(), [])


def _built(folder: Path, objects: list[Object]) -> list[Object]:
    """`objects` with what the folder adds to, and does with, all of them."""
    file = folder / _NAME
    loaded: Object = yaml.safe_load(file.read_text(encoding="utf-8"))
    unknown = sorted(set(loaded) - _KNOWN)
    if unknown:
        raise ValueError(f"{file}: {', '.join(unknown)} is not known here; use {', '.join(sorted(_KNOWN))}.")
    objects = list(objects)
    for name in loaded.get("resources", []):
        path = folder / name
        if path.is_dir():
            objects += render(path)
        else:
            objects += [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]
    # Anchors of YAML make several places one object, of which a patch must change one.
    objects = [_unshared(item) for item in objects]
    for name in loaded.get("components", []):
        objects = _built((folder / name).resolve(), objects)
    for entry in loaded.get("patches", []):
        text = entry["patch"] if "patch" in entry else (folder / entry["path"]).read_text(encoding="utf-8")
        operations = yaml.safe_load(text)
        if not isinstance(operations, list):
            raise ValueError(
                f"{file}: a patch is not a list of operations (JSON 6902), which is all that is known here."
            )
        for item in objects:
            if _is_target(item, entry["target"]):
                for operation in operations:
                    _apply(item, operation, file)
    for item in objects:
        _transform(item, loaded)
    return objects


def _unshared(value: Any) -> Any:
    """A copy in which no two places are one object."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _is_target(item: Object, target: Object) -> bool:
    names = {"kind": item["kind"], "name": item["metadata"]["name"]}
    unknown = set(target) - set(names)
    if unknown:
        raise ValueError(f"A patch's target by {', '.join(sorted(unknown))} is not known here; use kind and name.")
    return all(re.fullmatch(str(wanted), names[key]) for key, wanted in target.items())


def _apply(item: Object, operation: Object, file: Path) -> None:
    """One operation of JSON 6902: add, replace or remove."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    kind = operation["op"]
    try:
        parent: Any = item
        for part in parts[:-1]:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        _change(parent, parts[-1], kind, _unshared(operation.get("value")))
    except (KeyError, IndexError) as error:
        where = f"{item['kind']} {item['metadata']['name']}"
        raise ValueError(f"{file}: {kind} {operation['path']} finds nothing there in {where}.") from error


def _change(parent: Any, last: str, kind: str, value: Any) -> None:
    if kind not in ("add", "replace", "remove"):
        raise ValueError(f"The patch operation {kind!r} is not known here; use add, replace or remove.")
    if isinstance(parent, list):
        if kind == "add":
            parent.insert(len(parent) if last == "-" else int(last), value)
        elif kind == "replace":
            parent[int(last)] = value
        else:
            del parent[int(last)]
    elif kind == "add":
        parent[last] = value
    elif kind == "replace":
        parent[last]  # noqa: B018 - KeyError: a replacement needs something to replace
        parent[last] = value
    else:
        del parent[last]


def _transform(item: Object, loaded: Object) -> None:
    metadata = item["metadata"]
    if "namespace" in loaded and item["kind"] not in _CLUSTER_WIDE:
        metadata["namespace"] = loaded["namespace"]
    metadata["name"] += loaded.get("nameSuffix", "")
    for entry in loaded.get("labels", []):
        metadata["labels"] = {**metadata.get("labels", {}), **entry["pairs"]}
        for field in entry.get("fields", []):
            if field["kind"] == item["kind"]:
                _label(item, field["path"].split("/"), entry["pairs"])
    for entry in loaded.get("images", []):
        _rename_images(item, entry)


def _label(parent: Any, path: list[str], pairs: Object) -> None:
    first, *rest = path
    if first.endswith("[]"):
        for entry in parent[first.removesuffix("[]")]:
            _label(entry, rest, pairs)
    elif rest:
        _label(parent.setdefault(first, {}), rest, pairs)
    else:
        parent[first] = {**parent.get(first, {}), **pairs}


def _rename_images(value: Any, entry: Object) -> None:
    """The image of every container, at any depth, that has the entry's name: another name, tag or digest."""
    if isinstance(value, list):
        for item in value:
            _rename_images(item, entry)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("containers", "initContainers") and isinstance(item, list):
                for container in item:
                    container["image"] = _renamed(container["image"], entry)
            _rename_images(item, entry)


def _renamed(image: str, entry: Object) -> str:
    found = re.fullmatch(rf"{re.escape(entry['name'])}((?::[\w.{{}}-]*)?(?:@sha256:[\w.{{}}-]*)?)", image)
    if found is None:
        return image
    tag = f":{entry['newTag']}" if "newTag" in entry else ""
    digest = f"@{entry['digest']}" if "digest" in entry else ""
    return str(entry.get("newName", entry["name"])) + (tag + digest or str(found[1]))
