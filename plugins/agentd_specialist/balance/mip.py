"""The exact model of a problem, solved by HiGHS in a process of its own: `python -m agentd_specialist.balance.mip`.

It reads a Model from stdin and writes an Answer to stdout, both as JSON.  HiGHS and numpy are the extra `solver` of
agentd; they are imported only here, because they take 100 MiB and more.  The costs are those of `solver`: all of them
are sums of max(0, …), so the model is exact.  Besides, no fault of a node may become larger than it is.  The columns
are, in this order: one for each unit and node, then what is outside the band, over the memory and over the cores of
each node, then the breaches of each rule that keeps guests apart.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd_specialist.balance.solver import BROKEN, OUTSIDE, OVER, OVER_CPU

if TYPE_CHECKING:
    from collections.abc import Mapping

GOOD_ENOUGH: Final = 0.005
"""The search ends when the result is proven to be at most so much above the optimum, as a share."""
FREE: Final = 1e30


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """A unit that may move: the nodes where it may be, what each costs, and the index of the one where it is now."""

    memory: float
    cpu: float
    groups: list[int]
    nodes: list[int]
    costs: list[float]
    at: int


class Model(msgspec.Struct, frozen=True):
    """A problem: by node what units that stay use, and the limits; `taken`: how many of each group are there."""

    memory: list[float]
    cpu: list[float]
    capacity: list[float]
    cpus: list[float]
    low: list[float]
    high: list[float]
    counted: list[bool]
    taken: list[list[int]]
    choices: list[Choice]
    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """The node of each unit that may move, and how far above the proven bound the cost is, in percent."""

    nodes: list[int]
    gap: float


class Table:
    """Columns and rows of the linear program."""

    def __init__(self) -> None:
        """Begin with an empty one."""
        self.costs: list[float] = []
        self.upper: list[float] = []
        self.start: list[float] = []
        self.whole: list[bool] = []
        self.rows: list[tuple[float, float, dict[int, float]]] = []

    def column(self, cost: float, start: float, *, whole: bool = False) -> int:
        """Add a column, and return its number.

        It is 0 or 1 if it is whole; otherwise it measures a fault, and no fault may become larger than it is.
        """
        self.costs.append(cost)
        self.upper.append(1.0 if whole else start)
        self.start.append(start)
        self.whole.append(whole)
        return len(self.costs) - 1

    def row(self, low: float, high: float, values: Mapping[int, float]) -> None:
        """Add a row: the sum of these columns is between low and high."""
        self.rows.append((low, high, dict(values)))


def table_of(model: Model) -> tuple[Table, list[list[int]]]:
    """Return the linear program, and the columns of each unit that may move."""
    table = Table()
    columns = [
        [table.column(cost, float(n == unit.at), whole=True) for n, cost in enumerate(unit.costs)]
        for unit in model.choices
    ]
    for own in columns:
        table.row(1.0, 1.0, dict.fromkeys(own, 1.0))
    memory: list[dict[int, float]] = [{} for _ in model.memory]
    cpu: list[dict[int, float]] = [{} for _ in model.memory]
    groups: dict[tuple[int, int], list[int]] = {}
    for unit, own in zip(model.choices, columns, strict=True):
        for node, column in zip(unit.nodes, own, strict=True):
            memory[node][column] = unit.memory
            cpu[node][column] = unit.cpu
            for group in unit.groups:
                groups.setdefault((group, node), []).append(column)
    for node, members in enumerate(memory):
        _node_rows(table, model, node, members, cpu[node])
    for (group, node), members_of in groups.items():
        _apart_rows(table, members_of, model.taken[group][node])
    return table, columns


def _node_rows(table: Table, model: Model, node: int, memory: dict[int, float], cpu: dict[int, float]) -> None:
    """Add the limits of a node."""
    used, cores = _sum(table, memory) + model.memory[node], _sum(table, cpu) + model.cpu[node]
    if model.counted[node]:
        low, high = model.low[node], model.high[node]
        outside = table.column(OUTSIDE, max(0.0, used - high, low - used))
        table.row(-FREE, high - model.memory[node], memory | {outside: -1.0})
        table.row(low - model.memory[node], FREE, memory | {outside: 1.0})
    over = table.column(OVER, max(0.0, used - model.capacity[node]))
    table.row(-FREE, model.capacity[node] - model.memory[node], memory | {over: -1.0})
    over_cpu = table.column(OVER_CPU, max(0.0, cores - model.cpus[node]))
    table.row(-FREE, model.cpus[node] - model.cpu[node], cpu | {over_cpu: -1.0})


def _apart_rows(table: Table, members: list[int], there: int) -> None:
    """Add the rule that at most one of these is on a node, where `there` stay; a breach costs."""
    count = there + sum(table.start[column] for column in members)
    already = max(0, there - 1)
    broken = table.column(BROKEN, max(0.0, count - 1 - already))
    table.row(-FREE, 1.0 - there + already, dict.fromkeys(members, 1.0) | {broken: -1.0})


def _sum(table: Table, values: Mapping[int, float]) -> float:
    return sum(value * table.start[column] for column, value in values.items())


def solve(model: Model) -> Answer:
    """Return the best placement that HiGHS finds in time; it begins with the present one."""
    import highspy

    table, columns = table_of(model)
    solver = highspy.Highs()
    options = {"output_flag": False, "threads": 1, "time_limit": model.seconds, "mip_rel_gap": GOOD_ENOUGH}
    for name, value in options.items():
        solver.setOptionValue(name, value)
    solver.passModel(_program(table))
    begin = highspy.HighsSolution()
    begin.col_value = table.start
    solver.setSolution(begin)
    solver.run()
    values = list(solver.getSolution().col_value)
    gap = float(solver.getInfo().mip_gap)
    chosen = [max(own, key=lambda column: values[column]) for own in columns] if values else []
    nodes = [unit.nodes[own.index(one)] for unit, own, one in zip(model.choices, columns, chosen, strict=True)]
    return Answer(nodes, 100 * min(gap, 1e6))


def _program(table: Table) -> Any:  # noqa: ANN401 - highspy has no types
    """Return the table as HiGHS takes it: by row."""
    import highspy
    import numpy as np

    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(table.costs), len(table.rows)
    program.col_cost_ = np.array(table.costs)
    program.col_lower_, program.col_upper_ = np.zeros(len(table.costs)), np.array(table.upper)
    program.row_lower_ = np.array([low for low, _, _ in table.rows])
    program.row_upper_ = np.array([high for _, high, _ in table.rows])
    kinds = highspy.HighsVarType
    program.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in table.whole]
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.cumsum([0, *(len(values) for _, _, values in table.rows)])
    program.a_matrix_.index_ = np.array([column for _, _, values in table.rows for column in values], dtype=np.int32)
    program.a_matrix_.value_ = np.array([value for _, _, values in table.rows for value in values.values()])
    return program


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # HiGHS writes lines of its own to stdout
        answer.write(msgspec.json.encode(solve(msgspec.json.decode(sys.stdin.buffer.read(), type=Model))))
