"""Downloads of images over loopback: ours as the manager runs it against ``curl -o``, and what eight at once cost in memory.

A server that costs next to nothing (``sendfile``) serves a sparse file from its own process, so that both are measured by what
they do themselves. Ours has the image's checksum worked out and the file synced to the disk as well; curl has neither.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from test.bench.result import Result, median, say, size, spread

GIB = 1 << 30
SIZE = size("DPF_BENCH_BFB_MIB", 2048) << 20
"""Bytes of the image."""
RUNS = 3
AT_ONCE = 8
SMALL = 8
"""The image that is downloaded eight times at once is that much smaller: memory does not depend on it, disks do."""


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[str]:
    """Serves a folder; gives the URL it is at."""
    command = [sys.executable, "-m", "test.bench.bfb", "serve", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def ours(target: Path, *urls: str) -> float:
    """Growth of the downloading process's memory in MiB; a process of its own, as it would be."""
    command = [sys.executable, "-m", "test.bench.bfb", "get", str(target), *urls]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("a download has failed")
    seconds, grown = out.decode().split()
    say(f"{len(urls)} downloads: {seconds} s, {grown} MiB more memory")
    return float(seconds) if len(urls) == 1 else float(grown)


async def curl(target: Path, url: str) -> float:
    """Seconds that curl takes."""
    started = time.monotonic()
    await asyncio.to_thread(subprocess.run, ["curl", "-sSf", "-o", str(target), url], check=True)
    seconds = time.monotonic() - started
    say(f"curl: {seconds:.2f} s")
    return seconds


async def bfb() -> list[Result]:
    """Wall time over curl's, run in turn; and the growth of memory with eight downloads at once."""
    if shutil.which("curl") is None:
        raise RuntimeError("curl is not there to be compared with")
    with tempfile.TemporaryDirectory(prefix="dpf-bench-") as name:
        served, got = Path(name, "served"), Path(name, "got")
        for folder in (served, got):
            folder.mkdir()
        for image, length in (("big.bfb", SIZE), ("small.bfb", SIZE // SMALL)):
            with (served / image).open("wb") as file:
                file.truncate(length)
        async with server(served) as url:
            mine: list[float] = []
            theirs: list[float] = []
            for _ in range(RUNS):
                for walls, get in ((mine, ours), (theirs, curl)):
                    walls.append(await get(got / "image.bfb", f"{url}/big.bfb"))
                    (got / "image.bfb").unlink()
            grown = await ours(got / "image.bfb", *[f"{url}/small.bfb"] * AT_ONCE)
    ratio = median(mine) / median(theirs)
    what = f"{SIZE / GIB:g} GiB; ours {median(mine):.2f} s ({spread(mine)}), curl {median(theirs):.2f} s"
    return [
        Result("bfb", ratio, "ours / curl", 1.5, compared_with="curl -o", detail=f"{what} ({spread(theirs)})"),
        Result("bfb.rss", grown, "MiB more with 8 downloads at once", 32.0),
    ]


# What the processes do


async def _serve(folder: Path) -> None:
    from aiohttp import web

    async def get(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(folder / request.match_info["name"], chunk_size=1 << 20)

    app = web.Application()
    app.router.add_get("/{name}", get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def _get(target: Path, urls: list[str]) -> None:
    from dpf.provisioning.bfb.download import Place, download
    from dpf.provisioning.bfb.source import Source
    from dpf.provisioning.bfb.storage import part_of
    from dpf.provisioning.volume import Volume

    volume = Volume(target.parent)
    before = _rss()
    peak = before

    def told(_: int, __: int) -> None:
        nonlocal peak
        peak = max(peak, _rss())

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number, url in enumerate(urls):
            part = part_of(target.parent, str(number))
            place = Place(volume, part, target.with_name(f"{number}-{target.name}"))
            group.create_task(download(Source(url), place, told))
    seconds = time.monotonic() - started
    target.with_name(f"0-{target.name}").rename(target)
    sys.stdout.write(f"{seconds:.3f} {peak - before:.1f}\n")


def _rss() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


def main() -> None:
    """Runs one of the two processes."""
    import uvloop

    role, folder, *urls = sys.argv[1:]
    uvloop.run(_serve(Path(folder)) if role == "serve" else _get(Path(folder), urls))


if __name__ == "__main__":
    main()
