"""Loggers, each in a process of its own: what they change is the process."""

from __future__ import annotations

import subprocess
import sys

START = "import logging; from copick.util.log import get_logger; "


def shown(code: str) -> list[str]:
    """What a program prints on stderr, without times."""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=True)
    assert not done.stdout
    return [line.partition(" ")[2] for line in done.stderr.splitlines()]


def test_plugins_are_seen() -> None:
    code = (
        "log = get_logger('my_plugin.cli.x'); log.info('one %s', '[b]'); log.debug('no'); log.warning('two')"
    )
    assert shown(code) == ["INFO my_plugin.cli.x: one [b]", "WARNING my_plugin.cli.x: two"]


def test_each_message_once() -> None:
    code = "get_logger('copick'); get_logger('copick.a'); get_logger('copick.a').info('x')"
    assert shown(code) == ["INFO copick.a: x"]


def test_debug_is_for_the_whole_package() -> None:
    code = "a = get_logger('p.a'); get_logger('q.b', debug=True); get_logger('p.c', debug=True); a.debug('x')"
    assert shown(code) == ["DEBUG p.a: x"]


def test_the_root_logger_stays_as_it_is() -> None:
    check = "assert logging.root.handlers == [] and logging.root.level == logging.WARNING; "
    assert (
        shown(f"get_logger('copick.a', True); get_logger('', True); get_logger('root', True); {check}") == []
    )
    assert shown("get_logger('copick'); logging.getLogger('other').info('x')") == []


def test_what_the_program_set_up_counts() -> None:
    setup = "logging.basicConfig(format='t program %(message)s'); "
    log = "get_logger('p').info('no'); get_logger('p').warning('x')"
    assert shown(setup + log) == ["program x"]
    assert shown(f"get_logger('p'); {setup} logging.getLogger('p').warning('x')") == ["program x"]
    own = "logging.getLogger('p').addHandler(logging.NullHandler()); "
    assert shown(own + log) == []


def test_levels_of_the_program_stay() -> None:
    assert shown("logging.getLogger('p').setLevel(logging.ERROR); get_logger('p.a').warning('x')") == []


def test_stderr_may_be_replaced() -> None:
    code = "import sys; log = get_logger('p'); sys.stderr = None; log.info('x'); sys.stderr = sys.__stderr__; log.info('y')"
    assert shown(code) == ["INFO p: y"]


def test_nothing_heavy_is_imported() -> None:
    check = "import sys; assert not {'rich', 'zarr', 'numpy', 'pydantic'} & set(sys.modules)"
    assert shown(f"get_logger('p').info; {check}") == []
