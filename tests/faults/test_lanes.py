"""The short form of the lanes: seconds, and few clients. What the service promises of each failure is the same.

`make faults` runs the long one. Lanes with the same stage share it, for starting processes takes longer than the lanes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.faults import lanes, stages
from tests.faults.lanes import LANES
from tests.faults.stages import Builder, Stage
from tests.running import PATIENCE, ROOT

PLAN = replace(lanes.SHORT, settle_secs=PATIENCE * 2)

# An upgrade to the same version is the lane of rolling restarts.
NAMES = [name for name in LANES if name != "upgrade" or lanes.BEFORE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each lane on the class's stage."""
    if "name" in metafunc.fixturenames:
        build = metafunc.cls.build
        metafunc.parametrize("name", [name for name in NAMES if LANES[name].stage is build])


@pytest.fixture(scope="class")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage of a class."""
    assert request.cls is not None
    folder = tmp_path_factory.mktemp("stage")
    with ExitStack() as stack:
        other = stack.enter_context(stages.checkout(folder / "before", lanes.BEFORE)) if lanes.BEFORE else ROOT
        yield stack.enter_context(request.cls.build(folder, other))


class _OnStage:
    build: Builder

    async def test_nothing_acknowledged_is_lost_silently(self, name: str, stage: Stage) -> None:
        lane = LANES[name]
        outcome = await lanes.run(lane, stage, PLAN, lane.short)
        logs = "\n".join(service.log.read_text()[-3000:] for service in stage.services)
        assert not outcome.violations(lane.promise), logs


class TestTwoWorkers(_OnStage):
    build = staticmethod(stages.two_workers)


class TestTwoProcesses(_OnStage):
    build = staticmethod(stages.two_processes)


class TestOneProcess(_OnStage):
    build = staticmethod(stages.one_process)


class TestRedisWithReplica(_OnStage):
    build = staticmethod(stages.watched)


class TestTwoVersions(_OnStage):
    build = staticmethod(stages.two_versions)


if lanes.BEFORE:

    class TestUpgraded(_OnStage):
        build = staticmethod(stages.upgraded)


def test_each_lane_has_a_short_form() -> None:
    assert {LANES[name].stage for name in NAMES} == {case.build for case in _OnStage.__subclasses__()}
