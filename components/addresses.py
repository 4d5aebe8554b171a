"""What RAY_ADDRESS names, found out within seconds. Ray itself would wait for minutes or end in a traceback."""

from __future__ import annotations

import os
from contextlib import closing
from urllib.parse import urlsplit

from components.errors import ReelTuneError

VARIABLE = "RAY_ADDRESS"
ANSWER_SECONDS = 10.0

# A call that every Ray head answers, and no other server.
QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"


def cluster_address() -> str | None:
    """``host:port`` of the cluster that RAY_ADDRESS names, or None if a local one has to be started.

    Raises:
        ReelTuneError: No cluster answers there, or the address is of another form.
    """
    address = os.environ.get(VARIABLE, "").strip()
    if address in ("", "local"):
        return None
    if address == "auto":
        address = _running_here()
    if "://" in address:
        scheme = urlsplit(address).scheme
        meant = "`ray job submit --address`" if scheme in ("http", "https") else "another way to connect"
        raise _no_cluster(address, f"{scheme}:// is for {meant}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise _no_cluster(address, "not host:port")
    _ask(address)
    return address


def _no_cluster(address: str, reason: str) -> ReelTuneError:
    return ReelTuneError(
        "no Ray cluster answers",
        where=VARIABLE,
        found=address,
        expected="host:port of a running head",
        cure=f"start one, or unset the variable ({reason})",
    )


def _running_here() -> str:
    """The address of a cluster that runs on this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address("auto") or ""
    except ConnectionError:
        raise _no_cluster("auto", "no cluster runs on this machine") from None


def _ask(address: str) -> None:
    """Calls the head. A listening port is not enough: it may belong to another program, or to nothing that answers."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # only Ray has the certificates
    with closing(grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])) as channel:
        # The message has no fields, and the answer is not read.
        call = channel.unary_unary(QUESTION, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            code = error.code()
            # A head that asks for a token is a head. Ray says what is wrong with the token.
            if code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise _no_cluster(address, f"{code.name}: {' '.join(str(error.details()).split())[:200]}") from None
