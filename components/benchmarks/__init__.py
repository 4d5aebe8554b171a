"""The registry of benchmarks. A new one is a file in this folder and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.plugins import Registry

if TYPE_CHECKING:
    from components.benchmarks.interface import Reader

BENCHMARKS: Registry[Reader] = Registry("benchmark")
BENCHMARKS.register("msrvtt", "components.benchmarks.msrvtt:READER")
BENCHMARKS.register("msvd", "components.benchmarks.msvd:READER")
BENCHMARKS.register("lsmdc", "components.benchmarks.lsmdc:READER")
BENCHMARKS.register("didemo", "components.benchmarks.didemo:READER")
BENCHMARKS.register("activitynet", "components.benchmarks.activitynet:READER")
BENCHMARKS.register("vatex", "components.benchmarks.vatex:READER")
BENCHMARKS.register("rtime", "components.benchmarks.rtime:READER")
BENCHMARKS.register("youcook2", "components.benchmarks.youcook2:READER")
BENCHMARKS.register("qvhighlights", "components.benchmarks.qvhighlights:READER")
BENCHMARKS.register("mmeb", "components.benchmarks.mmeb:READER")
BENCHMARKS.register("table", "components.benchmarks.table:READER")
