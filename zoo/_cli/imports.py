"""What to say where an installed package refuses to be imported beside another one."""

from __future__ import annotations

from types import TracebackType

__all__ = ["refused_import"]


def refused_import(error: ImportError) -> str | None:
    """Return one sentence on a package that refuses the versions around it; None where the fault is elsewhere.

    Packages such as transformers check at import what is installed beside them, and others import them without being
    asked: Lightning through torchmetrics. The zoo then cannot start, although it uses none of them.
    """
    if isinstance(error, ModuleNotFoundError):
        return None
    packages = _packages(error.__traceback__)
    if not packages or packages[-1] in ("zoo", "importlib", "__main__"):
        return None
    through = [p for p in dict.fromkeys(packages) if p not in ("zoo", "importlib", "__main__", "cli", packages[-1])]
    reason = str(error).strip().split("\n")[0][:300]
    way = f", which {through[-1]} imports," if through else ""
    return (
        f"the installed {packages[-1]}{way} cannot be imported: {reason.rstrip('.')}; install versions that fit "
        f"together, for example by `pip install -U {packages[-1]}`, or uninstall it if nothing needs it"
    )


def _packages(trace: TracebackType | None) -> list[str]:
    """Return the packages whose code was running, the outermost first."""
    found = []
    while trace is not None:
        found.append(str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        trace = trace.tb_next
    return found
