"""The short form of the experiment: connections are cut all the time, and nothing is missing, doubled or misplaced.

`make cuts` runs the long one, with the official clients' own pace.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuts.client import Pace
from tests.cuts.harness import Plan, experiment, workers
from tests.running import PATIENCE

PLAN = Plan(
    clients=20,
    publishers=4,
    seconds=8,
    # Fast enough that something is always under way when a connection is cut or moves.
    rate=20,
    cut_every_secs=1.6,
    cut_secs=0.6,
    silent_share=0.4,
    pace=Pace(retry_secs=0.2, acknowledge_secs=0.3),
    settle_secs=PATIENCE * 2,
)


@pytest.mark.parametrize(
    ("server", "count"), [("uvicorn", 1), ("daphne", 1), ("uvicorn", 2)], ids=["uvicorn", "daphne", "two workers"]
)
async def test_every_acknowledged_message_arrives_once_and_in_order(server: str, count: int, tmp_path: Path) -> None:
    with workers(tmp_path, count, server) as services:
        outcome = await experiment(services, PLAN)
        assert not outcome.violations(), "\n".join(service.log.read_text()[-2000:] for service in services)
    # And the weather was bad indeed. Far fewer than the plan has on average: a slow machine has fewer.
    assert outcome.cuts + outcome.silent_cuts > PLAN.clients
    assert outcome.recoveries > PLAN.clients
    assert outcome.silent_cuts
    assert (outcome.elsewhere > 0) == (count > 1)
