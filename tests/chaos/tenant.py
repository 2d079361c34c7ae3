"""A tenant who means harm: role `edit` in two namespaces, a quota of GPUs, and every idea at once.

In one namespace the policy for tenants is in force; in the other, which its operator forgot, it may
also take gates off and pin pods. Nothing of it may cost others more than its quota.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

from tests.chaos.load import GROUP
from tests.chaos.wire import MERGE, Object, Wire

CLOSED, OPEN = "chaos-tenant", "chaos-forgotten"
QUOTA_GPUS = 12
QUOTA_PODS = 20
GROUPS = "/apis/scheduling.x-k8s.io/v1alpha1"
JOBSET = "jobset.sigs.k8s.io/jobset-name"
#: what no manifest has; the API server refuses some of it
ODD = ("9" * 4_300, "9" * 4_301, "-1", "two", "x" * 60_000, "a\nb", "9223372036854775807", "0s")


class Tenant:
    """Does what the role `edit` lets it do, one act after the other."""

    def __init__(self, admin: Wire, rng: random.Random, ca: Path, kubeconfig: Path) -> None:
        self._admin, self._rng = admin, rng
        self._wire = Wire(admin.url, kubeconfig, ca)
        self._number = 0
        self.done: Counter[str] = Counter()  #: acts that the API server took
        self.refused: Counter[str] = Counter()
        self.acts = {
            "gang": self.gang,
            "gang with a pod without GPUs": self.mixed_gang,
            "gate taken off": self.ungate,
            "pin forged": self.forge,
            "labels stripped": self.strip,
            "ranks deleted": self.delete,
            "group rewritten": self.rewrite,
            "priority named": self.critical,
            "node named": self.name_node,
            "odd object": self.odd,
            "everything removed": self.clear,
        }

    async def settle_in(self) -> None:
        """Have an administrator make the namespaces, with what a tenant usually gets."""
        for name in (CLOSED, OPEN):
            label = {"muster.dev/tenant": "true"} if name == CLOSED else {}
            space = {"metadata": {"name": name, "labels": label}}
            await self._make("/api/v1/namespaces", "v1", "Namespace", space)
            here = f"/api/v1/namespaces/{name}"
            hard = {"requests.nvidia.com/gpu": str(QUOTA_GPUS), "pods": str(QUOTA_PODS)}
            quota = {"metadata": {"name": "quota"}, "spec": {"hard": hard}}
            await self._make(f"{here}/resourcequotas", "v1", "ResourceQuota", quota)
            rights = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}"
            groups = ["scheduling.x-k8s.io", "kubeflow.org"]
            rule = {"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}
            role = {"metadata": {"name": "training"}, "rules": [rule]}
            await self._make(f"{rights}/roles", "rbac.authorization.k8s.io/v1", "Role", role)
            for kind, of in (("ClusterRole", "edit"), ("Role", "training")):
                account = {"kind": "ServiceAccount", "name": "tenant", "namespace": CLOSED}
                reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": of}
                binding = {"metadata": {"name": of}, "subjects": [account], "roleRef": reference}
                await self._make(
                    f"{rights}/rolebindings", "rbac.authorization.k8s.io/v1", "RoleBinding", binding
                )
        accounts = f"/api/v1/namespaces/{CLOSED}/serviceaccounts"
        await self._make(accounts, "v1", "ServiceAccount", {"metadata": {"name": "tenant"}})
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86_400},
        }
        reply = await self._admin.sure("POST", f"{accounts}/tenant/token", request)
        self._wire.headers = {"Authorization": f"Bearer {reply['status']['token']}"}

    async def _make(self, path: str, version: str, kind: str, item: Object) -> None:
        await self._admin.sure("POST", path, {"apiVersion": version, "kind": kind, **item})

    async def run(self) -> None:
        """Act until cancelled."""
        async with self._wire:
            while True:
                what = self._rng.choice(sorted(self.acts))
                took = await self.acts[what](self._rng.choice((CLOSED, OPEN)))
                (self.done if took else self.refused)[what] += 1
                await asyncio.sleep(self._rng.uniform(0.1, 1.0))

    async def leave(self) -> None:
        """Remove all that is the tenant's."""
        for name in (CLOSED, OPEN):
            for path in (
                f"/apis/kubeflow.org/v1/namespaces/{name}/pytorchjobs",
                f"/api/v1/namespaces/{name}/pods",
                f"{GROUPS}/namespaces/{name}/podgroups",
            ):
                await self._admin.sure("DELETE", path, {"gracePeriodSeconds": 0})

    # -- acts: True if the API server took it -----------------------------------------------------

    async def _post(self, path: str, version: str, kind: str, item: Object) -> bool:
        body = {"apiVersion": version, "kind": kind, **item}
        return 200 <= (await self._wire.call("POST", path, body))[0] < 300

    async def _pod(self, space: str, name: str, gpus: int, spec: Object, **meta: object) -> bool:
        limits = {"nvidia.com/gpu": gpus} if gpus else {}
        container = {"name": "main", "image": "x", "resources": {"limits": limits}}
        item = {
            "metadata": {"name": name, **meta},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
        }
        return await self._post(f"/api/v1/namespaces/{space}/pods", "v1", "Pod", item)

    async def _patch(self, path: str, body: Object) -> bool:
        return 200 <= (await self._wire.call("PATCH", path, body, MERGE))[0] < 300

    async def _pick(self, space: str) -> Object | None:
        code, reply = await self._wire.call("GET", f"/api/v1/namespaces/{space}/pods")
        pods = (
            sorted(reply["items"], key=lambda p: str(p["metadata"]["name"])) if code == 200 else []
        )
        return self._rng.choice(pods) if pods else None

    def _name(self) -> str:
        self._number += 1
        return f"t-{self._number}"

    async def gang(self, space: str) -> bool:
        """Make a gang; now and then one pod of it is missing."""
        name, size = self._name(), self._rng.randint(2, 3)
        group = {"metadata": {"name": name}, "spec": {"minMember": size}}
        path = f"{GROUPS}/namespaces/{space}/podgroups"
        await self._post(path, "scheduling.x-k8s.io/v1alpha1", "PodGroup", group)
        gpus, run_s = self._rng.choice((1, 2, 4)), self._rng.randint(2, 30)
        took = True
        for rank in range(size - (self._rng.random() < 0.3)):
            took &= await self._pod(
                space, f"{name}-{rank}", gpus, {}, labels={GROUP: name},
                annotations={"muster.dev/run-for": f"{run_s}s"},
            )  # fmt: skip
        return took

    async def mixed_gang(self, space: str) -> bool:
        """Make a gang whose size is read from labels that can be taken off later."""
        name, took = self._name(), True
        for rank, gpus in enumerate((0, 4, 4)):
            took &= await self._pod(
                space, f"{name}-{rank}", gpus, {}, labels={JOBSET: name},
                annotations={"muster.dev/min-member": "3"},
            )  # fmt: skip
        return took

    async def ungate(self, space: str) -> bool:
        """Take muster's gate off a pod."""
        pod = await self._pick(space)
        if pod is None:
            return False
        path = f"/api/v1/namespaces/{space}/pods/{pod['metadata']['name']}"
        return await self._patch(path, {"spec": {"schedulingGates": None}})

    async def forge(self, space: str) -> bool:
        """Make a pod that looks as if muster had placed it."""
        name, node = self._name(), f"node-{self._rng.randrange(12):05d}"
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        spec = {
            "affinity": {"nodeAffinity": required},
            "schedulingGates": [{"name": "muster.dev/queued"}],
        }
        plan = {"muster.dev/plan": f"{space}/{name}/1/worker-0"}
        await self._pod(space, f"{name}-0", 4, spec, labels={GROUP: name}, annotations=plan)
        path = f"/api/v1/namespaces/{space}/pods/{name}-0"
        return await self._patch(path, {"spec": {"schedulingGates": None}})

    async def strip(self, space: str) -> bool:
        """Take the labels off a pod, or move it to another gang."""
        pod = await self._pick(space)
        if pod is None:
            return False
        labels: Object = dict.fromkeys(pod["metadata"].get("labels") or {})
        if self._rng.random() < 0.5:
            labels[GROUP] = f"t-{self._rng.randint(1, max(1, self._number))}"
        path = f"/api/v1/namespaces/{space}/pods/{pod['metadata']['name']}"
        return await self._patch(path, {"metadata": {"labels": labels}})

    async def delete(self, space: str) -> bool:
        """Delete some pods, and make one of them anew."""
        took = False
        for _ in range(self._rng.randint(1, 5)):
            pod = await self._pick(space)
            if pod is None:
                break
            meta = pod["metadata"]
            path = f"/api/v1/namespaces/{space}/pods/{meta['name']}"
            body = {"gracePeriodSeconds": 0}
            took |= 200 <= (await self._wire.call("DELETE", path, body))[0] < 300
            if self._rng.random() < 0.3:
                labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
                notes.pop("muster.dev/plan", None)
                await self._pod(space, meta["name"], 4, {}, labels=labels, annotations=notes)
        return took

    async def clear(self, space: str) -> bool:
        """Delete all pods and jobs at once: its quota is free for more."""
        took = True
        for path in (
            f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs",
            f"/api/v1/namespaces/{space}/pods",
        ):
            code, _ = await self._wire.call("DELETE", path, {"gracePeriodSeconds": 0})
            took &= 200 <= code < 300
        return took

    async def rewrite(self, space: str) -> bool:
        """Change how many pods a gang says that it needs."""
        name = f"t-{self._rng.randint(1, max(1, self._number))}"
        size = self._rng.choice((0, 1, 2, 50, -1, 2**31, 2**63 - 1, "two", None))
        path = f"{GROUPS}/namespaces/{space}/podgroups/{name}"
        return await self._patch(path, {"spec": {"minMember": size}})

    async def critical(self, space: str) -> bool:
        """Name the highest priority there is, in a pod and in a training job."""
        name, first = self._name(), "system-node-critical"
        took = await self._pod(
            space, f"{name}-0", 4, {"priorityClassName": first}, labels={GROUP: name},
            annotations={"muster.dev/min-member": "1"},
        )  # fmt: skip
        limits = {"nvidia.com/gpu": 4}
        container = {"name": "pytorch", "image": "x", "resources": {"limits": limits}}
        worker = {"replicas": 2, "template": {"spec": {"containers": [container]}}}
        policy = {"schedulingPolicy": {"priorityClass": first, "minAvailable": -1}}
        job = {
            "metadata": {"name": name},
            "spec": {"runPolicy": policy, "pytorchReplicaSpecs": {"Worker": worker}},
        }
        path = f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs"
        return await self._post(path, "kubeflow.org/v1", "PyTorchJob", job) or took

    async def name_node(self, _: str) -> bool:
        """Leave the queue; the policy refuses it, or whoever may create pods has any node."""
        spec = {"nodeName": f"node-{self._rng.randrange(12):05d}"}
        return await self._pod(CLOSED, f"{self._name()}-0", 8, spec)

    async def odd(self, space: str) -> bool:
        """Write what nobody writes."""
        name, text = self._name(), self._rng.choice(ODD)
        keys = (
            "muster.dev/min-member",
            "muster.dev/queue",
            "muster.dev/walltime",
            "muster.dev/saved",
        )
        notes = {self._rng.choice(keys): text}
        terms = self._rng.choice((0, 0, 300))
        spec: Object = {"nodeSelector": {f"k{n}": "v" for n in range(terms)}} if terms else {}
        return await self._pod(
            space, f"{name}-0", 1, spec, labels={"muster.dev/group": name}, annotations=notes
        )
