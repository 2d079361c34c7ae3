"""Queues of Kueue, KAI, Volcano and Slurm: what they become, what is said, and bad input.

Samples have the documented fields: kueue.x-k8s.io v1beta1 and v1beta2, scheduling.run.ai v2,
scheduling.volcano.sh v1beta1, and the columns of `sacctmgr -P show assoc tree`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.model import Node, PodShape
from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Quota, Search, Serve, Victims
from scheduler.core.quota import QuotaTree
from scheduler.core.state import ClusterState
from scheduler.policies import queuesfile
from sim.commands.main import invoke
from sim.queues import importing
from sim.schema.cluster import Cluster, Pool
from sim.schema.queues import load

SAMPLES = Path(__file__).parent / "samples"
TOTALS = Cluster.uniform(16).totals()  # 128 GPUs


def imported(name: str, totals: dict[tuple[str, str], int] = TOTALS) -> importing.Imported:
    return importing.read([SAMPLES / name], totals)


def at_most(found: importing.Imported) -> dict[str, int]:
    """Return how many GPUs each node could have if nobody else ran."""
    tree = QuotaTree(found.queues)
    cell = tree.cells[found.queues.flavors[0].name, "gpus"]
    return {name: tree.potential[node][cell] for node, name in enumerate(tree.names)}


def said(found: importing.Imported) -> str:
    return "\n".join(found.notes)


@pytest.mark.parametrize("name", ["kueue.yaml", "kai.yaml", "volcano.yaml", "slurm.txt"])
def test_import_file_and_show_keep_the_same_tree(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "queues.toml"
    assert (
        invoke(["queues", "import", str(SAMPLES / name), "--out", str(out), "--nodes", "16"]) == 0
    )
    found = imported(name)
    assert load(out) == found.queues
    captured = capsys.readouterr()
    assert captured.out.startswith(found.system)
    for note in found.notes:
        assert note in captured.err
        assert f"# - {note}" in out.read_text()
    assert invoke(["queues", "show", str(out)]) == 0
    shown = capsys.readouterr().out
    for queue in found.queues.queues:
        assert queue.name in shown
    heads = {"KAI": "share", "Volcano": "share", "Slurm": "fair-tree"}.get(found.system)
    assert (f'sharing: heads = "{heads}"' in shown) is (heads is not None)
    assert invoke(["validate", str(out)]) == 0
    assert f"queues file: {len(found.queues.queues)} queues" in capsys.readouterr().out


def test_kueues_words_are_kept() -> None:
    found = imported("kueue.yaml")
    vision, text = found.queues.queues
    assert vision == Queue(
        "vision",
        "research",
        2.0,
        {
            "h100": {"gpus": Quota(32, 16, 8), "cpu": Quota(1500), "memory": Quota(1 << 40)},
            "a100": {"gpus": Quota(8), "cpu": Quota(0), "memory": Quota(0)},
        },
        ("h100", "a100"),
        Holding.STRICT,
        Victims.LOWER_OR_NEWER_EQUAL_PRIORITY,
        Victims.ANY,
        Victims.LOWER_PRIORITY,
        100,
        Search.TRY_NEXT,
        Search.STOP,
    )
    assert text == Queue(
        "text", "research", quota={"h100": {"gpus": Quota(16)}}, discipline=Holding.SKIP
    )
    assert found.queues.cohorts == (
        Cohort("research", "company", quota={"h100": {"gpus": Quota(4, 0)}}),
        Cohort("company"),
    )
    assert found.queues.flavors[0] == Flavor("h100", gpu_model="H100", labels={"zone": "a"})
    assert found.queues.aliases == {
        "team-vision/main": "vision",
        "team-text/main": "text",
        "team-text/nightly": "text",
        "nightly": "text",
    }
    for what in (
        "namespaceSelector has no counterpart",
        "text: it has several resourceGroups",
        "text: it is stopped",
        "admissionChecks has no counterpart",
        "nodeTaints has no counterpart",
        "a100: no ResourceFlavor",
        "urgent = 1000",
        "main: LocalQueues of this name",
    ):
        assert what in said(found)


def test_flavors_that_nobody_describes_are_pools_unless_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    for names, pools in ((["f"], [""]), (["f", "g"], ["f", "g"])):
        flavors = ", ".join(
            f"{{name: {name}, resources: [{{name: nvidia.com/gpu, nominalQuota: 8}}]}}"
            for name in names
        )
        path.write_text(
            "apiVersion: kueue.x-k8s.io/v1beta2\nkind: ClusterQueue\nmetadata: {name: a}\n"
            f"spec: {{resourceGroups: [{{flavors: [{flavors}]}}]}}\n"
        )
        found = importing.read([path], {})
        assert [flavor.pool for flavor in found.queues.flavors] == pools
        nodes = [Node(f"n{at}", PodShape(8), pool) for at, pool in enumerate(pools)]
        assert ClusterState(nodes, queues=found.queues).book is not None


def test_a_cohort_with_the_name_of_a_queue_gets_another(tmp_path: Path) -> None:
    path = tmp_path / "same.yaml"
    path.write_text(
        "apiVersion: kueue.x-k8s.io/v1beta2\nkind: ClusterQueue\nmetadata: {name: a}\n"
        "spec: {cohortName: a}\n"
    )
    found = importing.read([path], {})
    assert found.queues.queues[0].cohort == "a-cohort"
    assert "a: a queue has the name of this cohort" in said(found)


def test_limits_without_a_cohort_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(
        "apiVersion: kueue.x-k8s.io/v1beta2\nkind: ClusterQueue\nmetadata: {name: a}\n"
        "spec: {resourceGroups: [{flavors: [{name: f, resources: [{name: nvidia.com/gpu, "
        "nominalQuota: 8, lendingLimit: 4}]}]}]}\n"
    )
    found = importing.read([path], {})
    assert found.queues.queues[0].quota == {"f": {"gpus": Quota(8)}}
    assert "a: it is in no cohort, so its borrowing and lending limits are left out" in said(found)


def test_a_queue_may_have_the_name_of_the_root(tmp_path: Path) -> None:
    path = tmp_path / "kai.yaml"
    path.write_text(
        "apiVersion: scheduling.run.ai/v2\nkind: Queue\nmetadata: {name: cluster}\n"
        "spec: {resources: {gpu: {quota: 8, limit: -1, overQuotaWeight: 1}}}\n"
    )
    found = importing.read([path], TOTALS)
    assert at_most(found) == {"cluster": 128, "cluster-all": 128}


def test_kais_limits_hold_and_what_no_quota_covers_is_the_clusters() -> None:
    found = imported("kai.yaml")
    assert at_most(found) == {
        "vision": 16, "text": 48, "burst": 148, "research": 48, "cluster": 148,
    }  # fmt: skip
    vision = found.queues.queues[0]
    assert (vision.weight, vision.within, vision.reclaim) == (3.0, "lower-priority", "any")
    for what in (
        "vision: spec.priority",
        "vision: spec.preemptMinRuntime",
        "text: its quota of gpu",
        "quotas and limits of cpu and memory are left out",
    ):
        assert what in said(found)
    unknown = imported("kai.yaml", {})
    assert "burst: its quota is unlimited, and what the cluster has is not known" in said(unknown)


def test_cpus_count_where_the_cluster_says_how_many_there_are() -> None:
    cluster = Cluster((Pool("a", 16, cpu_per_node=96),))
    tree = QuotaTree(imported("kai.yaml", cluster.totals()).queues)
    cell = tree.cells["default", "cpu"]
    assert tree.potential[tree.index_of["vision"]][cell] == 4_000
    assert tree.potential[tree.index_of["text"]][cell] == 16 * 96_000
    assert ("default", "memory") not in tree.cells


def test_volcanos_guarantee_is_never_lent_and_its_capability_holds() -> None:
    found = imported("volcano.yaml")
    tree = QuotaTree(found.queues)
    assert at_most(found)["vision"] == 32
    vision = tree.index_of["vision"]
    assert tree.local[vision] == [8]
    tree.take(vision, ((0, 32),))
    assert tree.available(tree.index_of["text"], 0) == 16  # of the 48 of research
    assert found.queues.queues[1].discipline is Holding.STRICT
    for what in (
        "default: it has no `deserved`",
        "vision: it is not reclaimable",
        "text: spec.affinity",
    ):
        assert what in said(found)


def test_slurms_limits_hold_at_every_account() -> None:
    """astro and lattice may have 48 and 32, and 64 together with physics' own jobs."""
    found = imported("slurm.txt")
    assert at_most(found) == {
        "astro": 48, "lattice": 32, "physics": 64, "biology": 24, "guests": 128,
        "physics/all": 64, "root": 128,
    }  # fmt: skip
    tree = QuotaTree(found.queues)
    tree.take(tree.index_of["astro"], ((0, 48),))
    assert tree.available(tree.index_of["lattice"], 0) == 16
    biology = next(queue for queue in found.queues.queues if queue.name == "biology")
    assert biology.quota == {"default": {"gpus": Quota(24, 0)}}
    assert {queue.weight for queue in found.queues.queues} == {1.0, 40.0}
    for what in (
        "astro: GrpJobs",
        "astro: limits of users (GrpTRES)",
        "lattice: its share is that",
        "lattice: GrpTRES of node",
    ):
        assert what in said(found)


HEADER = "Cluster|Account|User|Par Name|Share|GrpTRES"


def slurm(tmp_path: Path, *lines: str, header: str = HEADER) -> importing.Imported:
    path = tmp_path / "assoc.txt"
    path.write_text("\n".join((header, *lines)) + "\n")
    return importing.read([path], TOTALS)


def test_slurms_parents_are_a_column_an_indent_or_unknown(tmp_path: Path) -> None:
    found = slurm(tmp_path, "c|root|||1|", "c|a||root|1|gres/gpu=8", "c|b||a|1|gres/gpu=4")
    assert at_most(found) == {"b": 4, "a": 8, "root": 128}
    flat = slurm(
        tmp_path, "c|root||1|", "c|a||1|gres/gpu=8|", header="Cluster|Account|User|Share|GrpTRES"
    )
    assert "does not say which account is in which" in said(flat)


def test_accounts_of_slurm_without_limits_share_all_by_the_fair_tree(tmp_path: Path) -> None:
    """Most have shares and no GrpTRES: the root has all GPUs, and everybody may use them."""
    found = slurm(tmp_path, "c|root|||1|", "c|a||root|60|", "c|b||root|40|cpu=8")
    assert at_most(found) == {"a": 128, "b": 128, "root": 128}
    assert found.queues.sharing.heads is Serve.FAIR_TREE
    assert "set half_life_s of [sharing] to PriorityDecayHalfLife" in said(found)


def test_slurms_gpu_types_are_flavors(tmp_path: Path) -> None:
    found = slurm(tmp_path, "c|a||root|1|cpu=8,gres/gpu:h100=8", "c|b||root|1|gres/gpu:a100=4")
    assert found.queues.flavors == (
        Flavor("a100", gpu_model="a100"),
        Flavor("h100", gpu_model="h100"),
    )
    assert found.queues.queues[0].quota["h100"] == {"gpus": Quota(8, 0)}
    assert "GrpTRES of cpu is left out" in said(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c|root|||1|\n", "its first line has no column Account and User: leave out -n"),
        ("   Cluster    Account       User\n------- ---- ---\n", "print them with -P"),
        ('{"meta": {}, "associations": []}', "print it as text, with -P"),
    ],
)
def test_other_outputs_of_slurm_are_refused_with_the_way_out(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "assoc.txt"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=rf"assoc.txt: .*{message}.*; `sacctmgr -P show assoc tree`"
    ):
        importing.read([path], {})


def test_texts_of_other_systems_are_read(tmp_path: Path) -> None:
    """With a byte order mark, in UTF-16, and with carriage returns and `|` at the end of lines."""
    text = (SAMPLES / "slurm.txt").read_text()
    path = tmp_path / "assoc.txt"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(text.replace("\n", "|\r\n").encode(encoding))
        assert importing.read([path], TOTALS).queues == imported("slurm.txt").queues


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("c|a||x|1|",), "queue 'a': its parent 'x' is not among them; get them all"),
        (("c|a||b|1|", "c|b||a|1|"), "queues a, b are a cycle of parents"),
        (("c|a||root|1|", "d|a||root|1|"), "associations of the clusters c, d; choose one"),
        (("c|a||root|many|",), "line 2: account 'a': share is 'many', not a number or parent"),
        (("c|a||root|1|gres/gpu=x",), "account 'a': GrpTRES has 'gres/gpu=x'; wanted TYPE=NUMBER"),
        (("c|a|ada|root|1|",), "it has no line of an account; leave out user="),
        (("c|||root|1|",), "line 2: it has no account"),
    ],
)
def test_slurms_faults_are_named(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slurm(tmp_path, *lines)


QUEUE = "apiVersion: kueue.x-k8s.io/v1beta2\nkind: ClusterQueue\nmetadata: {name: a}\nspec: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML: "),
        ("just words", "'just words' is no object of Kubernetes; give the output of"),
        ("kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}", "no queues; give the output of"),
        ("kind: Queue\napiVersion: scheduling.run.ai/v2", "a Queue has no metadata.name"),
        (
            QUEUE + "{}\n---\nkind: Queue\napiVersion: scheduling.run.ai/v2\nmetadata: {name: b}",
            "queues of KAI and Kueue; give",
        ),
        (QUEUE + "[]", "ClusterQueue 'a': spec is no mapping"),
        (QUEUE + "{preemption: {reclaimWithinCohort: Some}}", "is 'Some', not one of Never, Lower"),
        (QUEUE + "{resourceGroups: {}}", r"'a': spec.resourceGroups is \{\}, not a list"),
        (
            QUEUE + "{resourceGroups: [{flavors: [{name: f, resources: [{name: nvidia.com/gpu, "
            "nominalQuota: 8x}]}]}]}",
            r"spec.resourceGroups\[0\].flavors\[0\].resources\[0\].nominalQuota is '8x', not a "
            "quantity such as 8",
        ),
    ],
)
def test_faults_of_objects_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        importing.read([path], {})


def test_the_file_is_written_as_the_queues_read(tmp_path: Path) -> None:
    """Volcano's and Slurm's trees too, whose cohorts have quotas of their own."""
    for name in ("volcano.yaml", "slurm.txt"):
        queues = imported(name).queues
        assert queuesfile.read(queuesfile.write(queues).encode(), name) == queues
