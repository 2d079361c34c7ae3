"""The clusters that a study or plan simulates: counts of equal nodes, or cluster files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.schema.cluster import Cluster, NodeShape


@dataclass(frozen=True, slots=True)
class Size:
    """One cluster of a study or plan."""

    name: str  #: the number of nodes, or the name of the file without its ending
    cluster: Cluster
    is_file: bool = False

    @property
    def num_nodes(self) -> int:
        """Nodes of the cluster."""
        return self.cluster.num_nodes

    @property
    def num_gpus(self) -> int:
        """GPUs of the cluster."""
        return self.cluster.num_gpus


def of_nodes(nodes: Sequence[int], shape: NodeShape) -> tuple[Size, ...]:
    """Return clusters of so many nodes of one shape.

    Raises:
        ValueError: a count makes no sense.
    """
    return tuple(Size(str(count), shape.of(count)) for count in nodes)


def of_files(paths: Sequence[str]) -> tuple[Size, ...]:
    """Return the clusters of files.

    Raises:
        ValueError: a file describes no possible cluster.
    """
    return tuple(Size(Path(path).stem, Cluster.load(path), is_file=True) for path in paths)
