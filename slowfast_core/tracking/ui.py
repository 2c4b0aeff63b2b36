"""`slowfast ui`: the MLflow UI of a workspace."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import NoReturn

from slowfast_core.errors import InputError
from slowfast_core.tracking.runs import connect, quiet_mlflow
from slowfast_core.tracking.unsent import described
from slowfast_core.workspace import Workspace


def serve_ui(at: Workspace, host: str = "127.0.0.1", port: int = 5000) -> NoReturn:
    """Replace this process by MLflow's server, whose address other machines can use as `tracking.uri`."""
    database = at.below("mlflow.db")
    if not database.is_file():
        raise InputError("nothing has been tracked here yet", database, "run `slowfast run RECIPE` or name --workspace")
    _require_port(host, port)
    for line in described(at):
        print(f"slowfast: {line}", file=sys.stderr)
    connect(at.tracking_uri)  # the server would print pages about a database that it cannot use
    quiet_mlflow()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", at.tracking_uri]
    command += ["--artifacts-destination", at.artifacts.as_uri(), "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, command)


def _require_port(host: str, port: int) -> None:
    """Raise InputError if the address cannot be bound; the server itself would retry for a minute and exit with 0."""
    if not 0 < port < 2**16:
        raise InputError("cannot listen there: no such port", f"{host}:{port}", "choose one from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            listener.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        what = "the port is in use" if taken else f"cannot listen there: {error.strerror}"
        raise InputError(what, f"{host}:{port}", "choose another with --port or --host") from None
