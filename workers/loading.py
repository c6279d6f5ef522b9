"""Finds the handlers that WA_HANDLERS names, and says what is wrong with them.

`python -m workers.loading NAME` only tries: the commands run it before they start anything.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from ingest import child, settings
from ingest.settings import DEFAULT_HANDLERS, redis_url
from ingest.state import in_work
from ingest.store import connection
from ingest.terminal import aside, shortened
from workers import doubts
from workers.handlers import Handlers
from workers.places import own_place, sort
from workers.raised import HandlersError

_OURS = ("workers", "ingest")


def load(name: str) -> Handlers:
    """The registry that `module:object` or `path/to/file.py:object` names.

    The working folder is importable, and so is the folder of such a file; both come last in `sys.path`. Raises
    HandlersError; an exception of the module itself is passed on as it is: `explain` puts it into a line.
    """
    module, _, attribute = name.rpartition(":")
    sys.path += [folder for folder in _folders(module) if folder not in sys.path]
    found: Any = _from_file(name, Path(module).absolute()) if module.endswith(".py") else _import(name, module)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Handlers):
        raise HandlersError(
            f"WA_HANDLERS={name}: {attribute!r} in that module is no `workers.Handlers()`{_remedy(name, module)}"
        )
    return found


def load_all(name: str, destinations: Path | None) -> Handlers:
    """The same with what is in the file of destinations, if there is one. With it, WA_HANDLERS need not be set."""
    if destinations is None:
        return load(name)
    # What only posts needs an HTTP client, which takes 8 MiB.
    from workers.destinations import file, registering

    found = file.read(destinations)
    handlers = Handlers() if name == DEFAULT_HANDLERS else load(name)
    registering.register(handlers, found)
    return handlers


def load_or_exit(name: str, destinations: Path | None) -> Handlers:
    """`load_all` for a child process, which says what is wrong and ends for good."""
    try:
        return load_all(name, destinations)
    except Exception as error:
        if not isinstance(error, HandlersError):
            traceback.print_exception(_in_their_code(error))
        aside(f"wa-ingest: {explain(name, error)}")
        tell_operators(explain(name, error, quotes=False), advice(error))
    sys.exit(child.GIVE_UP)


def explain(name: str, error: Exception, quotes: bool = True) -> str:
    """What is wrong with handlers that raised this, and the remedy where one is known, in one line. Unless it `quotes`,
    it has nothing of what an exception of the user's says, which may be a secret: Python's own of imports and syntax
    say nothing of that sort.
    """
    if isinstance(error, HandlersError):
        return f"{error}{_where(error)}"
    says = error.msg if isinstance(error, SyntaxError) else (str(error).splitlines() or [""])[0]
    says = f": {says}" if quotes or isinstance(error, SyntaxError | ImportError) else ""
    remedy = _remedy(name, _blamed(error))
    if not remedy and isinstance(error, ModuleNotFoundError):
        remedy = f": it is neither in {os.getcwd()} nor installed in {sys.prefix}"
    return f"WA_HANDLERS={name}: the module fails: {type(error).__name__}{says}{_where(error)}{remedy}"


def advice(error: Exception) -> str:
    """What to do about it: the user's line to mend, if one is at fault."""
    if line := _line(error):
        return f"install it, or mend {line}" if isinstance(error, ModuleNotFoundError) else f"mend {line}"
    return "see WA_DESTINATIONS" if str(error).startswith("WA_DESTINATIONS") else "see WA_HANDLERS"


def _where(error: Exception) -> str:
    return f" at {found}" if (found := _line(error)) else ""


def _line(error: Exception) -> str:
    """The line of the user's at which it failed."""
    return shortened(own_place(error))


def tell_operators(text: str, remedy: str = "mend it") -> None:
    """Have `status` and the page say why handlers cannot be loaded until a worker starts: Redis keeps it, if it is
    there.
    """
    with suppress(Exception):  # whatever keeps it from being told, it was printed
        for redis in connection.all_for_tools(redis_url(settings.load()), connection.COMMAND_SECONDS).values():
            in_work.tell_unloadable(redis, in_work.Unloadable(text, remedy))


def startup_failed(error: Exception) -> in_work.Unloadable:
    """What operators are told of a startup function that raised this."""
    text = f"a @handlers.startup function fails: {sort(error)}{_where(error)}"
    line = _line(error)
    return in_work.Unloadable(text, f"mend {line}" if line else "mend that function", in_work.STARTUP_FAILS)


def hidden(name: str) -> list[str]:
    """A line for each module of the user's that cannot be imported because wa-ingest has one of that name."""
    return [
        f"{own} is hidden by wa-ingest's {there}: your handlers cannot import it; rename it if they need it"
        for top in _OURS
        for own, there in _clash(name.rpartition(":")[0], top)
        if own.is_file() or any(own.glob("*.py"))
    ]


def _folders(module: str) -> list[str]:
    """Where the user's modules are: beside the file that WA_HANDLERS names, and in the working folder."""
    beside = [str(Path(module).absolute().parent)] if module.endswith(".py") else []
    return list(dict.fromkeys([*beside, os.getcwd()]))


def _check_readable(name: str, module: str) -> None:
    """Raise HandlersError when this user may not read the module's folder or file, which Python passes over."""
    file = Path(module).absolute() if module.endswith(".py") else Path.cwd() / f"{module.replace('.', '/')}.py"
    needed = dict.fromkeys(reversed(file.parents), os.X_OK)
    needed |= {folder: os.R_OK | os.X_OK for folder in file.parents if folder.is_relative_to(Path.cwd())}
    needed |= {file.parent: os.R_OK | os.X_OK, file: os.R_OK, file.with_suffix(""): os.R_OK}
    for place, mode in needed.items():
        if place.exists() and not os.access(place, mode):
            raise HandlersError(
                f"WA_HANDLERS={name}: {place} cannot be read by user {os.geteuid()}, as whom this runs: "
                f"`chmod -R a+rX {place}` lets everybody read it"
            )


def _import(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except PermissionError:
        _check_readable(name, module)
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that the user's module imports
        _check_readable(name, module)
        raise HandlersError(
            f"WA_HANDLERS={name}: there is no module {error.name!r} in {os.getcwd()} or among the installed packages"
            + _remedy(name, module)
        ) from None


def _from_file(name: str, file: Path) -> ModuleType:
    """The module in a file. It has the file's name, so that modules beside it can import it.

    Where that name means another module, which must stay what it is for whoever imports it, a `_` is added.
    """
    _check_readable(name, str(file))
    if not file.is_file():
        raise HandlersError(f"WA_HANDLERS={name}: there is no file {file}")
    module = file.stem.replace(".", "_")
    while (found := _find(module)) is not None and found.origin != str(file):
        module += "_"
    if module in sys.modules:
        return sys.modules[module]
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None  # noqa: S101 - it ends in .py
    assert spec.loader is not None  # noqa: S101
    made = sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[module]
        raise
    return made


def _find(module: str) -> ModuleSpec | None:
    """What `import module` finds, or has found."""
    with suppress(ValueError):
        return importlib.util.find_spec(module)
    return ModuleSpec(module, None)  # __main__, which has none


def _in_their_code(error: Exception) -> Exception:
    """The exception without the part of its traceback that leads to the user's code."""
    trace = error.__traceback__
    while trace is not None and ("importlib" in (file := trace.tb_frame.f_code.co_filename) or file == __file__):
        trace = trace.tb_next
    return error.with_traceback(trace)


def _blamed(error: Exception) -> str:
    """The module that an exception is about: it is not there, or lacks something."""
    if isinstance(error, ImportError):
        return error.name or ""
    lacking = error.obj if isinstance(error, AttributeError) else None
    return lacking.__name__ if isinstance(lacking, ModuleType) else ""


def _remedy(name: str, module: str) -> str:
    """What to do when the user has a module of that name, and another one is found; else nothing."""
    wanted, _, attribute = name.rpartition(":")
    file = module.replace(".", "/") + ".py"
    instead = f", or give WA_HANDLERS={file}:{attribute}" if wanted == module and Path(file).is_file() else ""
    top = module.partition(".")[0]
    return "".join(f"; {own} is hidden by {there}: rename it{instead}" for own, there in _clash(wanted, top))


def _clash(wanted: str, top: str) -> Iterator[tuple[Path, str]]:
    """Where the user has a module of that name, and what is found instead of it.

    The source of wa-ingest, in whose folder one that is installed may run, is nothing of the user's.
    """
    own = PathFinder.find_spec(top, _folders(wanted)) if top else None
    found = _find(top) if own else None
    if own and found and _place(own) != _place(found) and not Path(_place(own)).with_name("wa_ingest.py").is_file():
        yield Path(_place(own)), _place(found)


def _place(spec: ModuleSpec) -> str:
    """The file of a module or the folder of a package; of a module without either, what Python says of it."""
    if spec.submodule_search_locations:
        return os.path.realpath(next(iter(spec.submodule_search_locations)))
    return os.path.realpath(spec.origin) if spec.has_location and spec.origin else f"Python's own {spec.name}"


def sources(name: str, destinations: Path | None = None) -> list[str]:
    """What the handlers are made of: the user's folders, the package if it is elsewhere, the file of destinations."""
    module = name.rpartition(":")[0]
    spec = None if module.endswith(".py") else PathFinder.find_spec(module.partition(".")[0])
    elsewhere = [_place(spec)] if spec else []
    return [*_folders(module), *elsewhere, *([] if destinations is None else [str(destinations)])]


def arguments(name: str, destinations: Path | None) -> tuple[str, ...]:
    """What this module is called with, to try them."""
    return (name,) if destinations is None else (name, str(destinations))


def called_with(arguments: Sequence[str]) -> tuple[str, Path | None]:
    """What these arguments say."""
    name, *destinations = arguments
    return name, Path(destinations[0]) if destinations else None


def main() -> None:
    """Load the handlers, and no more."""
    child.watch_parent()
    name, destinations = called_with(sys.argv[1:])
    for line in hidden(name):
        aside(f"Warning: {line}")
    try:
        registry = load_or_exit(name, destinations)
    except SystemExit as error:
        if error.code != child.GIVE_UP:
            text = f"WA_HANDLERS={name}: the module ends Python"
            aside(f"wa-ingest: {text}: sys.exit({error.code!r})")
            tell_operators(f"{text}: sys.exit")
        sys.exit(child.GIVE_UP)
    for line in doubts.of(registry, name):
        aside(f"Warning: {line}")


if __name__ == "__main__":
    main()
