"""The MLflow UI on a workspace."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from slowfast_core.errors import InputError
from slowfast_core.tracking.location import settle
from slowfast_core.tracking.runs import quiet_mlflow
from slowfast_core.tracking.unsent import described
from slowfast_core.workspace import Workspace


def serve_ui(at: Workspace, host: str = "127.0.0.1", port: int = 5000) -> NoReturn:
    """Become MLflow's server; the same address takes runs from other machines as `tracking.uri`."""
    database = at.root / "mlflow.db"
    if not database.is_file():
        raise InputError("nothing has been tracked here yet", database, "run `slowfast run RECIPE` or name --workspace")
    for line in described(at):
        print(f"slowfast: {line}", file=sys.stderr)
    settle(database)
    quiet_mlflow()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", at.tracking_uri]
    command += ["--artifacts-destination", at.artifacts.as_uri(), "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, command)
