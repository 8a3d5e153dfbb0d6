"""Starting a worker: options, logging, commands. Every failure here is said on stderr and exits with 2."""

from __future__ import annotations

import os
import sys

from bridge.cli.serve import parse_serve
from bridge.cli.usage import Usage
from bridge.commands import MODULES
from bridge.entry_points import find_command_modules
from bridge.family.messages import VARIABLE
from bridge.options import ServeOptions
from bridge.registry import RegistrationError, Registry, default, load_module
from bridge.secrets import remember_environment
from bridge.telemetry import LogWriter, say, set_up_logging
from bridge.tool_modules import tool_functions

USAGE = 2


def start_worker(words: list[str], stdin: int, stdout: int) -> int:
    """Run a worker with the command line ``words`` on two private descriptors; gives the exit code."""
    try:
        options = parse_serve(words)
        if (control := os.environ.pop(VARIABLE, None)) is not None:
            return _be_template(options, int(control))
        if options.workers > 1:
            return _start_family(options, stdin, stdout)
        logs = _set_up(options)
        registry = load_commands(options)
        tool_functions(options.tools)
    except (Usage, RegistrationError) as error:
        say(f"dspy-bridge: {error}")
        return USAGE
    from bridge.worker.worker import serve

    return serve(options, registry, stdin, stdout, logs)


def _start_family(options: ServeOptions, stdin: int, stdout: int) -> int:
    from bridge.family.template_process import TemplateProcess

    template = TemplateProcess()  # first of all: it imports while this process does
    logs = _set_up(options)
    from bridge.family.supervisor import serve_family

    return serve_family(options, template, stdin, stdout, logs)


def _be_template(options: ServeOptions, control: int) -> int:
    remember_environment()
    logs = _logging(options)  # what else could be wrong the supervisor has looked at
    logs.renew(threaded=False)
    registry = load_commands(options)
    tool_functions(options.tools)
    from bridge.family.template import Template

    return Template(options, registry, logs, control).run()


def load_commands(options: ServeOptions) -> Registry:
    """The built-in commands, the operator's modules, and what installed packages bring.

    :raises RegistrationError: when a module can not be loaded or a name is taken.
    """
    if "" not in sys.path and "." not in sys.path:
        sys.path.append("")  # `--commands my_module` finds a module beside the operator's shell
    for module in (*MODULES, *options.commands, *find_command_modules()):
        load_module(module)
    default.check()
    return default


def _set_up(options: ServeOptions) -> LogWriter:
    remember_environment()
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
    return _logging(options)


def _logging(options: ServeOptions) -> LogWriter:
    try:
        return set_up_logging(
            level=options.log_level,
            as_json=options.log_format == "json",
            log_file=options.log_file,
            debug=options.debug,
        )
    except OSError as error:
        raise Usage(f"the log file {options.log_file} can not be written: {error.strerror}") from None


def _check_writable(folder: str) -> None:
    """Make sure that DSPy can keep its cache in ``folder``, before anybody waits for an answer."""
    import tempfile

    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Usage(f"the cache directory {folder} can not be written: {error.strerror}") from None
