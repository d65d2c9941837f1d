"""The flow tables of tests/packets/tables, asked with real packets; one test a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import features
from tests.lab.world import World
from tests.packets import flow_tables


@pytest.mark.dataplane
@pytest.mark.parametrize("name", flow_tables.names())
def test_table(name: str, tmp_path: Path) -> None:
    """Every row of the table holds; all of what does not is named."""
    table = flow_tables.read(name)
    for feature in table.needs:
        if features.lacks(feature, name):
            pytest.skip(f"this kernel has no {feature}")

    with World(table.config, table.objects, table.rows, tmp_path) as world:
        world.agent.write(table.objects, mark=False)
        world.agent.start()
        complaints = [complaint for row in table.rows if (complaint := world.judge.eventually(world.client(row), row))]
        assert not complaints, "\n".join(complaints) + world.agent.log_tail()
        world.wind_up()
