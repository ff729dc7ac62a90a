"""Applies manifests of any kind to an API server, as ``kubectl apply --server-side`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from dpf.runtime.errors import ApiError, NotFound
from dpf.sandbox.api import Api, Json

CONFIG = Path(__file__).resolve().parents[2] / "config"
"""CRDs, RBAC and samples of this repository."""

ESTABLISHED_WITHIN = 20.0
"""Seconds that a new CRD may take to be served."""


def documents(folder: Path) -> Iterator[Json]:
    """Every object in the YAML files of a folder, file by file; ``kustomization.yaml`` is not an object."""
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from (document for document in yaml.safe_load_all(path.read_text()) if document)


class Applier:
    """Applies objects; asks the server once per group for the names of its resources."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._resources: dict[str, dict[str, tuple[str, bool]]] = {}

    async def apply(self, objects: Iterable[Json]) -> None:
        """Applies them in order."""
        for obj in objects:
            await self._api.apply(await self.path(obj), obj)

    async def install_crds(self, crds: Iterable[Json]) -> None:
        """Applies CustomResourceDefinitions and returns when all of them are served.

        :raises TimeoutError: if they are not in time.
        """
        crds = list(crds)
        await self.apply(crds)
        async with asyncio.timeout(ESTABLISHED_WITHIN):
            for crd in crds:
                spec = crd["spec"]
                for version in spec["versions"]:
                    await self._served(f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}?limit=1")

    async def _served(self, path: str) -> None:
        while True:
            try:
                await self._api.text(path)
            except ApiError as error:
                if error.status not in (404, 429, 500, 503):
                    raise
                await asyncio.sleep(0.05)
            else:
                return

    async def path(self, obj: Json) -> str:
        """Where the object is in the API.

        :raises NotFound: if the server has no such kind.
        """
        version, metadata = obj["apiVersion"], obj["metadata"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if obj["kind"] not in self._resources.get(root, {}):
            self._resources[root] = await self._discover(root)
        if obj["kind"] not in self._resources[root]:
            raise NotFound(404, "NotFound", f"the server has no kind {obj['kind']} in {version}")
        plural, namespaced = self._resources[root][obj["kind"]]
        scope = f"/namespaces/{metadata['namespace']}" if namespaced else ""
        return f"{root}{scope}/{plural}/{metadata['name']}"

    async def _discover(self, root: str) -> dict[str, tuple[str, bool]]:
        try:
            found: list[dict[str, Any]] = (await self._api.get(root))["resources"]
        except NotFound:
            return {}
        return {r["kind"]: (r["name"], r["namespaced"]) for r in found if "/" not in r["name"]}
