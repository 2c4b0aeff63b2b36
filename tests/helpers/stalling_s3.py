"""An S3 server that records its requests and stalls on demand."""

from __future__ import annotations

import threading
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class StallingS3:
    """Records the keys put and got. After `before_stall[method]` requests, the next one waits until the test ends."""

    def __init__(self) -> None:
        self.put: list[str] = []
        self.got: list[str] = []
        self.before_stall: dict[str, int] = {}
        self.stalled = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].partition("/dvc/")[2]
        done = {"PUT": self.put, "GET": self.got}.get(method)
        if done is None or not key:
            return self._moto(environ, start_response)
        with self._lock:
            stalls = self.before_stall.get(method) == 0
            if method in self.before_stall and not stalls:
                self.before_stall[method] -= 1
        if stalls:
            self.stalled.set()
            self._released.wait(60)
        reply = self._moto(environ, start_response)
        done.append(key)
        return reply

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
