"""Each test of this room runs once per server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.running import PATIENCE, Service
from tests.servers.running import Running
from tests.servers.supervised import Supervised

# "direct" is uvicorn with an application that takes its extension.
SERVERS = ["uvicorn", "direct", "daphne"]


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that the tests of a module share. In the end it must not once have been surprised."""
    server = Running(tmp_path_factory.mktemp(request.param), request.param)
    try:
        yield server
        log = server.log.read_text()
        assert log.count("Traceback") == log.count("RuntimeError: the test's own"), log
    finally:
        server.stop()


Story = Callable[[Running], Awaitable[None]]
OnEach = Callable[..., Awaitable[None]]


@pytest.fixture
def on_each(tmp_path: Path) -> Iterator[OnEach]:
    """`await on_each(story, KEEP_ALIVE_SECS=1)`: what has to hold on a server of its own, on each kind.

    On all at the same time: stories of pings and of stopping mostly wait, and take no longer together.
    """
    started: list[Running] = []

    async def told(story: Story, server: str, options: dict[str, Any]) -> None:
        try:
            running = await asyncio.to_thread(Running, tmp_path, server, **options)
            started.append(running)
            await story(running)
        except BaseException as problem:
            problem.add_note(f"That was on {server}.")
            raise

    async def tell(story: Story, **options: Any) -> None:
        async with asyncio.TaskGroup() as all_told:
            for server in SERVERS:
                all_told.create_task(told(story, server, options))

    yield tell
    for running in started:
        running.stop()
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(params=["uvicorn", "daphne"])
def serve(request: pytest.FixtureRequest, service: Service) -> Iterator[Callable[[], Service]]:
    """`serve()`: the service itself, on the data of the shared one but with a process of its own."""
    started: list[Service] = []

    def begin() -> Service:
        started.append(Service(service.data_dir, server=request.param).start())
        return started[-1]

    yield begin
    for running in started:
        running.stop()
        assert "Traceback" not in running.log.read_text()


Supervise = Callable[..., Any]


@pytest.fixture
def supervise(tmp_path: Path) -> Supervise:
    """`async with supervise(workers=3) as supervised`: a supervisor whose workers have not been told what to do."""

    @asynccontextmanager
    async def supervised(
        workers: int = 2,
        stop_secs: float = PATIENCE,
        silence_secs: float = 0,
        terminal: int | None = None,
        *,
        lean: bool = False,
        out: int | None = None,
    ) -> AsyncIterator[Supervised]:
        supervisor = Supervised(tmp_path, workers, stop_secs, silence_secs)
        await supervisor.start(terminal, lean=lean, out=out)
        try:
            yield supervisor
        finally:
            await supervisor.stop()
        assert "Traceback" not in supervisor.said(), supervisor.said()

    return supervised
