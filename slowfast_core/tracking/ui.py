"""The MLflow server on a workspace, with its UI."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from slowfast_core.errors import InputError
from slowfast_core.tracking.runs import connect, quiet_mlflow
from slowfast_core.tracking.unsent import described
from slowfast_core.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALL_ADDRESSES = ("0.0.0.0", "::")


def serve_ui(at: Workspace, host: str = "127.0.0.1", port: int = 5000) -> NoReturn:
    """Replace this process with an MLflow server; other machines can use its address as `tracking.uri`."""
    database = at.below("mlflow.db")
    if not database.is_file():
        raise InputError("no tracking database", database, "run `slowfast run RECIPE` or name another --workspace")
    _require_port(host, port)
    for line in described(at):
        print(f"slowfast: {line}", file=sys.stderr)
    client = connect(at.tracking_uri)  # raises InputError; the server would print tracebacks about an unusable database
    for line in _addresses(client, host, port):
        print(line, flush=True)
    quiet_mlflow()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # nothing here uses its 10 or so job processes
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", at.tracking_uri]
    command += ["--artifacts-destination", at.artifacts.as_uri(), "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, command)


def _addresses(client: MlflowClient, host: str, port: int) -> Iterator[str]:
    """One URL for each experiment, the latest first. MLflow 3 opens its view of LLM traces unless the URL asks for the
    one of model training."""
    name = socket.gethostname() if host in ALL_ADDRESSES else host
    root = f"http://{f'[{name}]' if ':' in name else name}:{port}"
    experiments = client.search_experiments(order_by=["last_update_time DESC"], max_results=1000)
    for experiment in experiments:
        if experiment.name != "Default":
            page = f"{root}/#/experiments/{experiment.experiment_id}/runs"
            yield f"{experiment.name}: {page}?workflowType=machine_learning"
    yield f"models: {root}/#/models"


def _require_port(host: str, port: int) -> None:
    """Raise InputError where no server can listen: MLflow itself retries for a minute and exits with 0."""
    if not 0 < port < 2**16:
        raise InputError("cannot listen there: no such port", f"{host}:{port}", "choose one from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            listener.bind(address)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        what = "the port is in use" if in_use else f"cannot listen there: {error.strerror}"
        raise InputError(what, f"{host}:{port}", "choose another with --port or --host") from None
