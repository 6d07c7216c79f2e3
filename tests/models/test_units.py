from __future__ import annotations

from fusegpt.units import Unit


def test_a_unit_reads_as_it_is_said():
    assert str(Unit("block", 21)) == "block 21"


def test_units_survive_json_and_sort_by_index():
    units = [Unit("block", 10), Unit("block", 2)]
    assert [Unit.from_json(unit.to_json()) for unit in units] == units
    assert sorted(units) == units[::-1]
