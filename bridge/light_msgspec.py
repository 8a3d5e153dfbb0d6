"""msgspec without typing_extensions, and with it inspect: a sixth of the time to ``ready``."""

from __future__ import annotations

import sys


def import_msgspec() -> None:
    """Import msgspec so that it takes from typing what it would take from typing_extensions.

    It asks for ``get_type_hints`` with extras, ``Required`` and ``NotRequired``, which since Python 3.11 are
    the same in both, and takes typing's where there is no typing_extensions. Nothing else is imported
    meanwhile, and whoever imports typing_extensions later gets it.
    """
    if "typing_extensions" in sys.modules or "msgspec" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # this makes its import fail
    try:
        import msgspec  # noqa: F401 - imported for those who come later
    except ImportError:
        # A msgspec that can not do without: those who come later import it as usual, or say why not.
        for name in [name for name in sys.modules if name.partition(".")[0] == "msgspec"]:
            del sys.modules[name]
    finally:
        del sys.modules["typing_extensions"]
