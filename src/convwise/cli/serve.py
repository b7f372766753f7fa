"""The command `convwise serve`, and what `choose --open` starts: the page of one study."""

from __future__ import annotations

import signal
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from convwise.cli.console import err, out
from convwise.cli.reading import path_of
from convwise.core.problems import UnusableInput

OPEN_HELP = "Open a page in the browser that follows the study and stays up until Ctrl-C."


def serve(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", parser=path_of, help="A folder that `convwise choose` writes or wrote."
        ),
    ],
    port: Annotated[
        int | None,
        typer.Option(help="Port; by default the one that this folder used before, or a free one."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. 127.0.0.1 is this machine alone; with 0.0.0.0 anyone who "
            "can reach it and has the page's token can open it too, and everything goes over the "
            "network unencrypted."
        ),
    ] = "127.0.0.1",
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Show the study in DIR as a web page, while it runs and afterwards.

    The page follows a running study, and stops it on request. It shows what a change to one layer
    would do, tests it on your images, and writes the changed network. Ctrl-C ends the page, not the
    study.
    """
    server = _server()
    # Also where a shell lets the background ignore Ctrl-C
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)

    def ready(where: Any) -> None:
        if host not in server.LOOPBACK:
            said = (
                f"Anyone who can reach {host}, port {where.port}, and has this address can see the "
                "images and control the study. The connection is not encrypted."
            )
            err().print(said, highlight=False, soft_wrap=True)
        out().print(f"The page of {folder}: {where.address}", highlight=False, soft_wrap=True)
        sys.stdout.flush()
        if show:
            webbrowser.open(where.address)

    server.serve(folder, host, port, ready)


def _server() -> Any:
    try:
        from convwise.web import server
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "anyio"):
            raise
        fix = "pip install 'convwise[serve]'"
        raise UnusableInput(
            "serve", f"needs {error.name}, which is not installed", "the extra 'serve'", fix
        ) from error
    return server


@contextmanager
def page_beside(folder: Path) -> Iterator[None]:
    """A page of `folder` in another process; after a good end it stays until Ctrl-C."""
    _server()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "convwise", "serve", str(folder), "--open"]
    # Ctrl-C is for the study: the page shall show what is written then.
    page = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
        err().print("The page stays open until Ctrl-C.", highlight=False)
        with suppress(KeyboardInterrupt):
            page.wait()
    finally:
        page.terminate()
        page.wait()
