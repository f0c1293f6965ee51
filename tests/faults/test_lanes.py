"""The short form of the lanes: seconds, and few clients. What the service promises of each failure is the same.

`make faults` runs the long one. Lanes with the same stage share it, for starting processes takes longer than the lanes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults import lanes, stages
from tests.faults.lanes import LANES
from tests.faults.stages import Builder, Stage
from tests.running import PATIENCE

PLAN = replace(lanes.SHORT, settle_secs=PATIENCE * 2)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each lane on the class's stage."""
    if "name" in metafunc.fixturenames:
        build = metafunc.cls.build
        metafunc.parametrize("name", [name for name, lane in LANES.items() if lane.stage is build])


@pytest.fixture(scope="class")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage of a class."""
    assert request.cls is not None
    folder = tmp_path_factory.mktemp("stage")
    takes_two = any(lane.versions for lane in LANES.values() if lane.stage is request.cls.build)
    other = request.getfixturevalue("before") if takes_two else None
    with request.cls.build(folder, other) as stage:
        yield stage


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


class TestUpgraded(_OnStage):
    build = staticmethod(stages.upgraded)


def test_each_lane_has_a_short_form() -> None:
    assert {lane.stage for lane in LANES.values()} == {case.build for case in _OnStage.__subclasses__()}
