"""Whether the CPUs of the target have what the CPU type of a VM needs; pure.

Proxmox starts a VM with `enforce`: QEMU refuses if the node lacks a feature of the CPU type, also at the end of a
migration.  The features are those that Proxmox adds to its x86-64 levels, with their names in /proc/cpuinfo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd_proxmox.availability.migration_model import Finding, blocker, remark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_proxmox.availability.migration_model import Facts, MigrationRequest

OF_THE_HOST: Final = ("host", "max")
"""CPU types that show the CPU of the node to the guest."""
_V2: Final = frozenset({"popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3: Final = _V2 | {"aes", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
LEVELS: Final = {
    "x86-64-v2": _V2,
    "x86-64-v2-AES": _V2 | {"aes"},
    "x86-64-v3": _V3,
    "x86-64-v4": _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


def cpu_type(facts: Facts) -> str:
    """Return the CPU type of a VM, "" if it is the default."""
    return str(facts.config.get("cpu") or "").partition(",")[0].removeprefix("cputype=")


def nodes(facts: Facts, request: MigrationRequest) -> tuple[str, ...]:
    """Return the nodes whose CPUs have to be known: source and target, or the target alone."""
    if facts.at.kind != "qemu":
        return ()
    if cpu_type(facts) in LEVELS:
        return (request.target,)
    return (facts.at.node, request.target) if _continues_on_the_same(facts, request) else ()


def findings(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    """Report what the CPUs of the target lack, or that they are not those on which the guest was started."""
    if not nodes(facts, request):
        return
    kind = cpu_type(facts)
    if facts.cpus is None:
        what = "is that of its node" if kind in OF_THE_HOST else f"is {kind}"
        yield remark("cpu", f"its CPU type {what}, and the CPUs were not compared: the token lacks Sys.Audit")
        return
    source, target = facts.cpus[0], facts.cpus[-1]
    lacking = sorted(LEVELS.get(kind, frozenset()) - target.flags) if target.flags else []
    if lacking:
        text = f"its CPU type {kind} needs {', '.join(lacking)}, which the CPUs of {request.target} do not have"
        advice = "choose another target, or give it a CPU type that both have"
        yield blocker("cpu", text, advice) if facts.running else remark("cpu", text, advice)
    elif kind in OF_THE_HOST and source.model != target.model:
        text = f"its CPU type is that of its node ({source.model}), and {request.target} has {target.model}"
        yield blocker("cpu", text, "shutdown_guest first, or give it a CPU type that both have, such as x86-64-v2-AES")


def _continues_on_the_same(facts: Facts, request: MigrationRequest) -> bool:
    """Return whether the guest moves while it runs, and expects the CPU that it was started on."""
    return facts.running and request.online and cpu_type(facts) in OF_THE_HOST
