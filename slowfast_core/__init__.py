"""SlowFast networks for video recognition, from raw video to a registered model.

    import slowfast_core as sf
    sf.load("models:/slowfast-demo@champion").predict("clip.mp4")

Importing this package loads no other module of the project: `load` and `__version__` are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast_core.serving.classifier import Classifier as Classifier
    from slowfast_core.serving.classifier import Prediction as Prediction
    from slowfast_core.serving.classifier import load as load

    __version__: str

__all__ = ["Classifier", "Prediction", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in ("Classifier", "Prediction", "load"):
        from slowfast_core.serving import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("slowfast")
    except PackageNotFoundError:  # the source folder is on the path, but the package is not installed
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
