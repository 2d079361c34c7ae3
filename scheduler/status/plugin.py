"""`kubectl muster`: why a pod waits, the queue, the gangs, the nodes.

Reads muster's status through the API server's service proxy. The proxy forwards no identity, so the
plugin requests a token that is valid for muster only, and presents it. Users with the Role
muster-viewer need nothing else, whatever their login. `--url` or MUSTER_URL names another address,
MUSTER_TOKEN a token for it. The cluster is found as kubectl finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from scheduler.core.reasons import label
from scheduler.core.times import duration
from scheduler.status.plain import plain
from scheduler.status.shapes import NodeClass, Shapes, WaitingShape
from scheduler.status.shown import AUDIENCE, TOKEN_HEADER, is_loopback_host
from scheduler.status.status import GangView
from scheduler.status.way_out import many

if TYPE_CHECKING:
    from scheduler.kube.api import Api

PROXY = "/api/v1/namespaces/{}/services/muster:status/proxy"
TOKENS = "/api/v1/namespaces/{}/serviceaccounts/muster-viewer/token"
TOKEN_FOR_S = 600  #: the least that the API server makes
app = typer.Typer(
    name="kubectl-muster",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Why pods wait for their gang, and for how long.",
)
Url = Annotated[
    str, typer.Option(envvar="MUSTER_URL", help="Of muster's status port; default: by proxy.")
]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Of the pod or gang; default: the context's.")
]
Only = Annotated[str, typer.Option("--namespace", "-n", help="Show only gangs of this namespace.")]
Kubeconfig = Annotated[str, typer.Option(help="Default: KUBECONFIG, or ~/.kube/config.")]
Context = Annotated[str, typer.Option(help="In the kubeconfig; default: the current one.")]


class _Muster:
    """The status of one muster."""

    def __init__(self, url: str, kubeconfig: str, context: str) -> None:
        self._url = url.rstrip("/")
        self._kubeconfig = kubeconfig
        self._context = context
        self._token = ""
        self._token_until_s = 0.0

    def get(self, path: str) -> bytes:
        """Return an answer of muster's.

        Raises:
            ValueError: it does not answer, or does not know the thing.
        """
        if not self._url:
            return asyncio.run(self._by_proxy(path))
        try:
            own = os.environ.get("MUSTER_TOKEN", "")
            shown = {"Authorization": f"Bearer {own}"} if own else {}
            asked = urllib.request.Request(self._url + path, headers=shown)
            with urllib.request.urlopen(asked, timeout=10) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            raise ValueError(_message(error.read())) from None
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(
                f"{self._url}: {error}; set MUSTER_URL to muster's status port"
            ) from None

    async def _by_proxy(self, path: str) -> bytes:
        from scheduler.kube.api import Api, ApiError, access
        from scheduler.kube.kubeconfig import chosen

        namespace = os.environ.get("MUSTER_NAMESPACE", "muster-system")
        async with Api(await access(chosen(self._kubeconfig), self._context)) as api:
            try:
                if time.monotonic() > self._token_until_s:
                    self._token = await _token(api, namespace)
                    self._token_until_s = time.monotonic() + TOKEN_FOR_S / 2
                shown = {TOKEN_HEADER.decode(): self._token}
                within_s = 120.0 if path.startswith("/journal") else 10.0  # what muster allows
                where = PROXY.format(namespace) + path
                return await api.call("GET", where, headers=shown, timeout_s=within_s)
            except ApiError as error:
                if error.code == 404 and "/queue lists the gangs" in error.text:
                    raise ValueError(_message(error.text.encode())) from None
                raise ValueError(_no_answer(error.code, str(error), namespace)) from None

    def namespace(self) -> str:
        """Return the namespace of the kubeconfig's context."""
        from scheduler.kube.kubeconfig import chosen, namespace_of

        try:
            return namespace_of(chosen(self._kubeconfig), self._context)
        except ValueError:
            if self._url and not (self._kubeconfig or self._context):
                return "default"  # the address is all that is needed
            raise

    def gangs(self, namespace: str) -> list[GangView]:
        """Return all gangs, or those of one namespace."""
        found = msgspec.json.decode(self.get("/queue"), type=list[GangView])
        return [
            gang for gang in found if gang.gang.startswith(f"{namespace}/" if namespace else "")
        ]


async def _token(api: Api, namespace: str) -> str:
    """Have the API server make a token that muster takes, and nobody else."""
    spec = {"audiences": [AUDIENCE], "expirationSeconds": TOKEN_FOR_S}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    reply = await api.call("POST", TOKENS.format(namespace), body)
    return str(msgspec.json.decode(reply)["status"]["token"])


def _message(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:200].decode(errors="replace")


def _no_answer(code: int, text: str, namespace: str) -> str:
    if code == 403:
        way = f"ask for a RoleBinding to the Role muster-viewer in namespace {namespace}"
    elif code == 404:
        way = f"is muster installed in namespace {namespace}? MUSTER_NAMESPACE names another"
    else:
        way = (
            f"or read it without the proxy: kubectl -n {namespace} port-forward service/muster 8080"
            " and MUSTER_URL=http://127.0.0.1:8080"
        )
    return f"muster does not answer through the API server: {text}; {way}"


def _table(head: list[str], rows: list[list[object]]) -> None:
    """Print a table; columns of numbers stand to the right."""
    cells = [head, *([plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [
        all(isinstance(row[i], (int, float)) or row[i] == "" for row in rows)
        for i in range(len(head))
    ]
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        )
        print(line.rstrip())


def _say(line: str) -> None:
    """Print a line of texts that users wrote parts of."""
    print(plain(line))


@app.command()
def why(
    name: Annotated[str, typer.Argument(help="A pod or gang, with or without NAMESPACE/.")],
    namespace: Namespace = "",
    url: Url = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
) -> None:
    """Say why a pod or gang is pending. Example: kubectl muster why bert-7"""
    muster = _Muster(url, kubeconfig, context)
    where = name if "/" in name else f"{namespace or muster.namespace()}/{name}"
    space, _, short = where.partition("/")
    path = f"/explain/{quote(space)}/{quote(short)}"
    gang = msgspec.json.decode(muster.get(path), type=GangView)
    _say(f"gang {gang.gang} ({gang.source}) {_state(gang)}")
    _say(f"  {gang.text}")
    _say(
        f"  pods: {gang.pods_bound} bound, {gang.pods_present} exist, "
        f"{gang.pods_needed} needed to start, {gang.pods_total} in all; {many(gang.gpus, 'GPU')}"
    )
    if gang.lacks_pods and gang.pods_bound:
        _say(f"  it lacks {many(gang.lacks_pods, 'pod')} with {many(gang.lacks_gpus, 'GPU')}")
    if gang.position is not None:
        before = f", after {gang.ahead}" if gang.ahead else ""
        _say(f"  place in the queue: {gang.position}{before}; priority {gang.priority}")
    if gang.starts_in_s is not None:
        _say(f"  starts within {duration(gang.starts_in_s)}, if running gangs keep their walltime")
    for line in gang.advice:
        _say(f"  {line}")


def _state(gang: GangView) -> str:
    if gang.phase == "running":
        return f"runs, and lacks {many(gang.lacks_pods, 'pod')}" if gang.lacks_pods else "runs"
    if gang.phase == "ending":
        return "ends"
    return f"has been {gang.phase} for {duration(gang.waited_s)}: {label(gang.reason)}"


@app.command()
def queue(
    namespace: Only = "", url: Url = "", kubeconfig: Kubeconfig = "", context: Context = ""
) -> None:
    """List the queue in order. Example: kubectl muster queue"""
    found = _Muster(url, kubeconfig, context).gangs(namespace)
    waiting = [gang for gang in found if gang.reason]
    if not waiting:
        print("nothing waits")
        return
    _table(
        ["#", "GANG", "STATE", "PODS", "LACKS GPUS", "WAITED", "WHY"],
        [
            [
                gang.position or "",
                gang.gang,
                gang.phase,
                f"{gang.pods_bound}/{gang.pods_total}",
                gang.lacks_gpus or "",
                duration(gang.waited_s),
                gang.text,
            ]
            for gang in waiting
        ],
    )


@app.command()
def gangs(
    namespace: Only = "", url: Url = "", kubeconfig: Kubeconfig = "", context: Context = ""
) -> None:
    """List all gangs. Example: kubectl muster gangs"""
    _table(
        ["GANG", "SOURCE", "STATE", "REASON", "PODS", "GPUS", "PRIORITY"],
        [
            [
                gang.gang,
                gang.source,
                gang.phase,
                gang.reason + (f" ({gang.short.resource})" if gang.short else ""),
                f"{gang.pods_bound}/{gang.pods_total}",
                gang.gpus,
                gang.priority,
            ]
            for gang in _Muster(url, kubeconfig, context).gangs(namespace)
        ],
    )


@app.command()
def nodes(url: Url = "", kubeconfig: Kubeconfig = "", context: Context = "") -> None:
    """Show free shapes and fragmentation. Example: kubectl muster nodes"""
    content = _Muster(url, kubeconfig, context).get("/classes")
    found = msgspec.json.decode(content, type=Shapes)
    _table(
        ["POOL", "MODEL", "GPUS", "NODES", "CORDONED", "NOT READY", "FREE GPUS", "FREE ON A NODE"],
        [
            [
                seen.pool or "-",
                seen.gpu_model or "-",
                seen.gpus_per_node,
                seen.num_nodes,
                seen.num_cordoned,
                seen.num_not_ready,
                seen.free_gpus,
                ", ".join(f"{many(f.num_nodes, 'node')} with {f.free_gpus}" for f in seen.free)
                or "-",
            ]
            for seen in found.classes
        ],
    )
    _fits(found.classes)
    _fragmentation(found.waiting)


def _fits(classes: list[NodeClass]) -> None:
    rows: list[list[object]] = [
        [
            seen.pool or "-",
            seen.gpu_model or "-",
            fit.gpus_per_pod,
            fit.pods,
            fit.pods * fit.gpus_per_pod,
        ]
        for seen in classes
        for fit in seen.fits
    ]
    if rows:
        print("\nlargest gang that fits now")
        _table(["POOL", "MODEL", "GPUS PER POD", "PODS", "GPUS"], rows)


def _fragmentation(waiting: list[WaitingShape]) -> None:
    if not waiting:
        return
    print("\nwaiting shapes, and the share of free GPUs that gangs of each shape cannot use")
    rows: list[list[Any]] = [
        [
            f"{many(seen.pods, 'pod')} of {many(seen.gpus_per_pod, 'GPU')}",
            seen.nodes or "all",
            seen.num_gangs,
            seen.fit_pods,
            seen.free_gpus,
            f"{seen.fragmentation_ratio:.0%}",
        ]
        for seen in waiting
    ]
    _table(["SHAPE", "NODES", "GANGS", "PODS FIT", "FREE GPUS", "FRAGMENTATION"], rows)


@app.command()
def get(
    path: Annotated[
        str,
        typer.Argument(
            help="/queue, /state, /nodes, /node/NAME, /classes, /curve, /now, /journal."
        ),
    ],
    url: Url = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
) -> None:
    """Print a raw answer of the status port. Example: kubectl muster get /state"""
    content = _Muster(url, kubeconfig, context).get(path)
    if sys.stdout.isatty():
        for line in content.decode(errors="replace").split("\n"):
            print(plain(line, len(line)))
    else:
        sys.stdout.buffer.write(content)


TYPES = {"/": "text/html", "/metrics": "text/plain", "/journal": "application/x-ndjson"}


@app.command()
def page(
    port: Annotated[int, typer.Option(help="Local port; 0: any free one.")] = 0,
    url: Url = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
) -> None:
    """Serve the status page to a browser on this machine. Example: kubectl muster page"""
    muster = _Muster(url, kubeconfig, context)
    muster.get("/")  # or say at once why not

    class Passed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Forward a request to this machine that no page of another host name made."""
            if not is_loopback_host(self.headers.get("Host", "")):
                self.send_error(403)
                return
            code, content = 200, b""
            try:
                content = muster.get(self.path)
            except ValueError as error:
                code, content = 502, msgspec.json.encode({"error": str(error)})
            kind = TYPES.get(self.path.partition("?")[0], "application/json")
            self.send_response(code)
            self.send_header("Content-Type", kind if code == 200 else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log nothing for each request."""

    with ThreadingHTTPServer(("127.0.0.1", port), Passed) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def main() -> None:
    """Run the plugin; the exit code is 0 if done, 2 for errors that users can fix."""
    try:
        app()
    except ValueError as error:
        print(f"kubectl muster: {plain(str(error))}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
