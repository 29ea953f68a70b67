"""Fathom: the DeepSeek-V4 system, whole: architecture, training, serving, evaluation and planning in one codebase.

    import fathom
    session = fathom.load("runs/demo")
    print(session.generate("def fib(", max_tokens=64))

`load` is imported when it is first used, so that the command line and the planner start without torch.
"""
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Session, load

__version__ = "0.1.0"
__all__ = ["Session", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
