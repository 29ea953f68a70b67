"""Untrusted code, contained: bubblewrap where it is, a weaker mode only for who asks for it by name, and every result says which.

    from fathom.sandbox import Limits, Sandbox
    box = Sandbox()                                    # raises UserError, with the reason, where the walls don't stand
    result = box.run("print(input()[::-1])", stdin="abc", limits=Limits(wall_s=2))
    result.ok, result.stdout, result.containment.describe()
"""
from fathom.sandbox.box import MODES, Program, Sandbox, run
from fathom.sandbox.contract import Containment, Limits, Result, SandboxError

__all__ = ["MODES", "Containment", "Limits", "Program", "Result", "Sandbox", "SandboxError", "run"]
