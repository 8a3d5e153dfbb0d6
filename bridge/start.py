"""Starting a worker: options, logging, commands. Every failure here is said on stderr and exits with 2."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bridge.cli.serve import parse_serve
from bridge.cli.usage import Usage
from bridge.commands import MODULES
from bridge.entry_points import find_command_modules
from bridge.family import VARIABLE
from bridge.options import ServeOptions
from bridge.redact import redact_secrets
from bridge.registry import RegistrationError, Registry, default, load_module
from bridge.secrets import remember_environment
from bridge.tool_modules import tool_functions
from bridge.worker.announce import Signals, announce

if TYPE_CHECKING:
    from bridge.telemetry import LogWriter

USAGE = 2


def start_worker(words: list[str], stdin: int, stdout: int) -> int:
    """Run a worker with the command line ``words`` on two private descriptors; gives the exit code."""
    remember_environment()
    logs: LogWriter | None = None
    try:
        options = parse_serve(words)
        if (control := os.environ.pop(VARIABLE, None)) is not None:
            return _be_template(options, int(control))
        if options.workers > 1:
            return _start_family(options, stdin, stdout)
        log_fd = _set_up(options)
        modules = (*options.commands, *find_command_modules())
        if modules or options.tools:
            logs = _set_up_logging(options, log_fd)  # for what they say while they are imported
            _collect_garbage()
        registry = load_commands(modules)
        tool_functions(options.tools)
    except (Usage, RegistrationError) as error:
        _say(f"dspy-bridge: {error}")
        return USAGE
    signals = Signals()
    unsent = announce(options, registry.names(), stdout)
    # What follows is half of all that is imported: the host reads `ready` meanwhile.
    logs = logs or _set_up_logging(options, log_fd)
    from bridge.worker.worker import serve

    _collect_garbage()
    return serve(options, registry, stdin, stdout, logs, signals, unsent)


def _start_family(options: ServeOptions, stdin: int, stdout: int) -> int:
    from bridge.family.template_process import TemplateProcess

    template = TemplateProcess()  # first of all: it imports while this process does
    signals = Signals()
    logs = _set_up_logging(options, _set_up(options))
    from bridge.family.supervisor import serve_family

    _collect_garbage()
    return serve_family(options, template, stdin, stdout, logs, signals)


def _be_template(options: ServeOptions, control: int) -> int:
    from bridge.family.template import Template, end_with_supervisor

    end_with_supervisor(control)
    logs = _set_up_logging(options, _open_log(options))  # the supervisor has looked at all else
    logs.renew(threaded=False)
    registry = load_commands((*options.commands, *find_command_modules()))
    tool_functions(options.tools)
    return Template(options, registry, logs, control).run()


def load_commands(modules: Iterable[str]) -> Registry:
    """The built-in commands, and those of ``modules``: the operator's, and what installed packages bring.

    :raises RegistrationError: when a module can not be loaded or a name is taken.
    """
    if "" not in sys.path and "." not in sys.path:
        sys.path.append("")  # `--commands my_module` finds a module beside the operator's shell
    for module in MODULES:
        load_module(module)
    built_in = frozenset(default.names())
    for module in modules:
        load_module(module)
    default.check(sound=built_in)
    return default


def _collect_garbage() -> None:
    """End the pause that the entry point began; what is there by now is never looked at again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _set_up(options: ServeOptions) -> int:
    """Check and prepare what ``options`` name; gives the descriptor for the log.

    :raises Usage: saying what can not be had.
    """
    if options.die_with_parent:
        from bridge.worker.watcher import die_with_parent

        try:
            die_with_parent()
        except OSError as error:
            raise Usage(f"--die-with-parent can not be had here: {error.strerror}") from None
    if options.script is not None:
        from bridge.dspy_runtime.script_file import check_script

        try:
            check_script(options.script)
        except ValueError as error:
            raise Usage(str(error)) from None
    if options.cache_dir is not None:
        _check_writable(options.cache_dir)
    return _open_log(options)


def _open_log(options: ServeOptions) -> int:
    if options.log_file is None:
        return 2
    try:
        return os.open(options.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Usage(f"the log file {options.log_file} can not be written: {error.strerror}") from None


def _set_up_logging(options: ServeOptions, fd: int) -> LogWriter:
    from bridge.telemetry import set_up_logging  # after `ready` where nobody could log before

    as_json = options.log_format == "json"
    return set_up_logging(fd, level=options.log_level, as_json=as_json, debug=options.debug)


def _say(text: str) -> None:
    """One line on stderr for a person, when there is no worker to log it."""
    os.write(2, (redact_secrets(text) + "\n").encode(errors="replace"))


def _check_writable(folder: str) -> None:
    """Make sure that DSPy can keep its cache in ``folder``, before anybody waits for an answer."""
    import tempfile

    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Usage(f"the cache directory {folder} can not be written: {error.strerror}") from None
