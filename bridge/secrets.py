"""The secrets of the environment, known before anything could quote them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from bridge.redact import add_secret

# OPENAI_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY ...: whatever a provider's SDK may read.
_CERTAIN = r"(_|^)(API_?KEY|SECRET|SECRET_(ACCESS_)?KEY|PASSWORD|ACCESS_TOKEN|AUTH_TOKEN)$"
# Other names may stand for anything (SORT_KEY=title): their values count from a length no word has.
_LIKELY = r"(_|^)(KEY|TOKEN)$"
_LIKELY_CHARS = 16
# How the names that either takes end: most starts compile no pattern.
_ENDS = ("KEY", "SECRET", "PASSWORD", "TOKEN")


def remember_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Have the values of all variables that look like keys removed from what the process says."""
    for name, value in environ.items():
        upper = name.upper()
        if not upper.endswith(_ENDS):
            continue
        if re.search(_CERTAIN, upper) or (re.search(_LIKELY, upper) and len(value) >= _LIKELY_CHARS):
            add_secret(value)
