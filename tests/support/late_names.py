"""No commands: a template that imports this tells of each worker well after that one has said ``ready``."""

from __future__ import annotations

import os
import time

os.register_at_fork(after_in_parent=lambda: time.sleep(0.3))
