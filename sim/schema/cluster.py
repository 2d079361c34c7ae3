"""The simulated cluster: pools of equal nodes, from two numbers or a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from scheduler.core.model import UNLIMITED, Node, PodShape
from scheduler.core.queues import DEFAULT_FLAVOR

GIB = 1 << 30
#: nodes and GPUs of a cluster: each node takes about a kilobyte, and tables count in 32 bits
MOST_NODES, MOST_GPUS = 1_000_000, 2**31 - 1
#: where settings stand that are in no file
COMMAND_LINE = "the command line"
#: GPUs of every node; where nodes differ, (pool, GPU model, GPUs of a node) of each kind
NodeGpus = int | tuple[tuple[str, str, int], ...]


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Equal nodes. CPU, memory and pods are unlimited where they are not given."""

    name: str
    nodes: int
    gpus_per_node: int = 8  #: 0: nodes without GPUs
    gpu_model: str = ""
    cpu_per_node: float | None = None
    mem_gib_per_node: float | None = None
    pods_per_node: int | None = None  #: a kubelet's default is 110
    nodes_per_rack: int = 0  #: 0 means one rack
    racks_per_block: int = 0  #: 0 means one block

    def build(self) -> list[Node]:
        """Return the nodes in topology order."""
        capacity = PodShape(
            self.gpus_per_node,
            UNLIMITED if self.cpu_per_node is None else round(self.cpu_per_node * 1000),
            UNLIMITED if self.mem_gib_per_node is None else round(self.mem_gib_per_node * GIB),
            UNLIMITED if self.pods_per_node is None else self.pods_per_node,
        )
        nodes = []
        for i in range(self.nodes):
            rack = i // self.nodes_per_rack if self.nodes_per_rack else 0
            block = rack // self.racks_per_block if self.racks_per_block else 0
            topology = (f"block-{block:05}", f"rack-{rack:05}")
            nodes.append(Node(f"{self.name}-{i:06}", capacity, self.name, self.gpu_model, topology))
        return nodes


def largest_node(node_gpus: NodeGpus, pool: str, gpu_model: str) -> int:
    """Return the GPUs of the largest node in a pool and of a model; empty is any.

    Where there is none, that of all nodes: the job can never run, whatever its pods.
    """
    if isinstance(node_gpus, int):
        return node_gpus
    chosen = [
        gpus for name, model, gpus in node_gpus if pool in ("", name) and gpu_model in ("", model)
    ]
    return max(chosen or [gpus for *_, gpus in node_gpus])


class NodeShape(NamedTuple):
    """What each node of one pool has, as far as it is given."""

    gpus_per_node: int | None = None  #: 8
    cpu_per_node: float | None = None  #: no limit
    mem_gib_per_node: float | None = None  #: no limit

    def given(self) -> list[str]:
        """Return the names of what is given."""
        return [name for name in self._fields if getattr(self, name) is not None]

    def of(self, nodes: int) -> Cluster:
        """Return a cluster of so many such nodes.

        Raises:
            ValueError: a count is negative, or there is no node.
        """
        gpus = 8 if self.gpus_per_node is None else self.gpus_per_node
        pool = Pool(
            "node",
            nodes,
            gpus,
            cpu_per_node=self.cpu_per_node,
            mem_gib_per_node=self.mem_gib_per_node,
        )
        return _checked(Cluster((pool,)), COMMAND_LINE)


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All pools; `cluster.toml` has the same fields under `[[pool]]`."""

    pool: tuple[Pool, ...]

    @classmethod
    def uniform(cls, nodes: int, gpus_per_node: int = 8) -> Cluster:
        """Return one pool of equal nodes.

        Raises:
            ValueError: a count is not positive.
        """
        return NodeShape(gpus_per_node).of(nodes)

    @classmethod
    def load(cls, path: str | Path) -> Cluster:
        """Read a cluster file.

        Raises:
            ValueError: the file is missing, is not TOML, or describes no possible cluster.
        """
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"cluster file {str(path)!r}: {error.strerror}") from None
        try:
            cluster = msgspec.toml.decode(text, type=cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(
                f"cluster file {str(path)!r}: {error}; "
                "each pool is a [[pool]] table with name, nodes and gpus_per_node"
            ) from None
        return _checked(cluster, str(path))

    @property
    def num_nodes(self) -> int:
        """Nodes of all pools."""
        return sum(pool.nodes for pool in self.pool)

    @property
    def num_gpus(self) -> int:
        """GPUs of all pools."""
        return sum(pool.nodes * pool.gpus_per_node for pool in self.pool)

    def totals(self) -> dict[tuple[str, str], int]:
        """Return what all nodes have, by flavor and resource of a queues file, as far as given.

        A flavor is `default`, which is all nodes, or the GPU model in small letters.
        """
        found = {(DEFAULT_FLAVOR, "gpus"): self.num_gpus}
        for pool in self.pool:
            cell = (pool.gpu_model.lower(), "gpus")
            if pool.gpu_model:
                found[cell] = found.get(cell, 0) + pool.nodes * pool.gpus_per_node
        for resource, given, units in (
            ("cpu", [pool.cpu_per_node for pool in self.pool], 1000),
            ("memory", [pool.mem_gib_per_node for pool in self.pool], GIB),
        ):
            amounts = [
                pool.nodes * round(each * units)
                for pool, each in zip(self.pool, given, strict=True)
                if each is not None
            ]
            if len(amounts) == len(self.pool):
                found[DEFAULT_FLAVOR, resource] = sum(amounts)
        return found

    @property
    def node_gpus(self) -> NodeGpus:
        """What decides into which pods the GPUs of a job are cut: pool, model, GPUs of a node."""
        found = {(pool.name, pool.gpu_model, pool.gpus_per_node) for pool in self.pool}
        return tuple(sorted(found)) if len({gpus for *_, gpus in found}) > 1 else found.pop()[2]

    @property
    def limits_pods(self) -> bool:
        """True if a pool says how many pods a node takes: then each pod is counted."""
        return any(pool.pods_per_node is not None for pool in self.pool)

    def build(self) -> list[Node]:
        """Return all nodes."""
        return [node for pool in self.pool for node in pool.build()]


def _checked(cluster: Cluster, source: str) -> Cluster:
    names = [pool.name for pool in cluster.pool]
    for pool in cluster.pool:
        for what, least in (("nodes", 1), ("gpus_per_node", 0), ("pods_per_node", 1)):
            value = getattr(pool, what)
            if value is not None and value < least:
                raise ValueError(
                    f"pool {pool.name!r} in {source}: {what} is {value}; give at least {least}"
                )
        for what in ("cpu_per_node", "mem_gib_per_node"):
            amount = getattr(pool, what)
            if amount is not None and not 0 < amount < 1e9:
                raise ValueError(
                    f"pool {pool.name!r} in {source}: {what} is {amount}; give more than 0, "
                    "or leave it out for no limit"
                )
        if pool.nodes_per_rack < 0 or pool.racks_per_block < 0:
            raise ValueError(
                f"pool {pool.name!r} in {source}: nodes_per_rack and racks_per_block cannot be "
                "negative; 0 means one rack or block"
            )
    where = "" if source == COMMAND_LINE else f"{source}: "
    if cluster.num_nodes > MOST_NODES:
        raise ValueError(
            f"{where}the cluster has {cluster.num_nodes:,} nodes; give at most {MOST_NODES:,}: "
            "each is kept in memory"
        )
    if cluster.num_gpus > MOST_GPUS:
        raise ValueError(
            f"{where}the cluster has {cluster.num_gpus:,} GPUs; give at most {MOST_GPUS:,}: "
            "tables hold no larger number"
        )
    if not names:
        raise ValueError(f"{source} has no [[pool]]; a cluster needs at least one")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"pool {twice!r} occurs twice in {source}; give every pool its own name")
    return cluster
