"""The server of one folder's page: routes over what the folder says, and a person's actions."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from convwise import feed
from convwise.core.calculus import analyse
from convwise.core.clock import parse_duration
from convwise.core.net import Net
from convwise.core.problems import ConvwiseError, UnusableInput
from convwise.formats import WRITTEN
from convwise.images.preview import preview
from convwise.output import plots
from convwise.web import experiments, whatif
from convwise.web.following import Following, Known, state
from convwise.web.guard import LOOPBACK, REPORT_POLICY, Door, Guard, door

__all__ = ["LOOPBACK", "Page", "application", "check_folder", "serve"]
STATIC = Path(__file__).with_name("static")
LOOK = Path(plots.__file__).with_name("templates") / "report.css"  # the look of the house
GIVEN = (*WRITTEN, "choice.json", "study.db")  # what may be taken from the folder
PICTURE_PX = 256


class Page:
    """What the routes of one folder answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.following = Following(folder)
        self.experiments = experiments.Experiments(folder)
        self._pictures: tuple[str, dict[str, Any]] = ("", {})
        # What is imported on use must not be imported twice at once
        self._drawing = threading.Lock()

    # Reading ----------------------------------------------------------------------------------

    def state(self, since: str) -> dict[str, Any] | None:
        """What is to be shown; None where the page knows it."""
        known = self.following.look()
        live = self.following.live
        # The version changes with every word of an experiment.
        words = (
            f"{test.running:d}{len(test.notes)}-{test.progress.get('done')}"
            for test in self.experiments.tests
        )
        version = f"{known.version}.{'.'.join(words)}.{zlib.crc32(repr(live).encode()):x}"
        if since == version:
            return None
        tests = [test.to_json() for test in self.experiments.tests]
        return {**state(known), "version": version, "tests": tests, "files": self._files(known),
                "live": list(live)}  # fmt: skip

    def _files(self, known: Known) -> list[str]:
        return [name for name in GIVEN if known.choice and (self.folder / name).is_file()]

    def plot(self, name: str) -> str:
        """A picture of what is known by now, as SVG; '' where there is nothing to draw."""
        with self._drawing:
            return self.following.look().plots.get(name, "")

    def pictures(self) -> dict[str, Any]:
        """A few of the study's images as data URIs, or why there are none."""
        source = self.following.look().source
        with self._drawing:
            if source and self._pictures[0] != source:
                self._pictures = (source, _pictures(source))
            return self._pictures[1] or {"pictures": [], "why": "the study has not read them yet"}

    def net(self) -> Net:
        """The network that changes are of. UnusableInput where there is none yet."""
        net = self.following.look().net
        if net is None:
            raise UnusableInput(
                "the study", "has no network yet", "one that has looked at its images"
            )
        return net

    def layers(self) -> dict[str, Any]:
        """The network's layers with their controls; `net` is None where there is none yet."""
        net = self.following.look().net
        if net is None:
            return {"net": None}
        return {"net": net.id, "input": list(net.input_shape), "layers": whatif.layers(net)}

    # Actions ----------------------------------------------------------------------------------

    def what_if(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What the asked changes make of the network."""
        at = asked.get("at", (0.5, 0.5))
        if not (
            isinstance(at, (list, tuple))
            and len(at) == 2
            and all(0 <= float(share) <= 1 for share in at)
        ):
            raise UnusableInput("at", f"is {at!r}", "two shares from 0 to 1")
        return whatif.answer(
            self.net(), _changes(asked), str(asked.get("layer", "")), (float(at[0]), float(at[1]))
        )

    def test(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Measure the asked changes on the study's images."""
        known, changes = self.following.look(), _changes(asked)
        whatif.edited(self.net(), changes)
        parse_duration(budget := str(asked.get("budget", "2m")))
        if not changes:
            raise UnusableInput("test", "nothing is changed", "a change of the network")
        if known.news.running or known.choice is None:
            raise UnusableInput(
                "test",
                "the study still runs",
                "a study that has ended",
                "wait for it, or take the best now",
            )
        # A choice of the space may have the name of a layer's parameter
        of_layers = " &" if len(changes) == 1 else ""
        return self.experiments.start(" & ".join(map(str, changes)) + of_layers, budget).to_json()

    def stop_test(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What is measured until now is told."""
        self.experiments.stop()
        return {}

    def stop(self, asked: dict[str, Any]) -> dict[str, Any]:
        """As Ctrl-C where the study was started. UnusableInput where none runs that can be
        stopped.
        """
        told = self.following.look().news
        if not told.running or not told.about.get("stoppable"):
            raise UnusableInput(
                "stop",
                "no study that can be stopped is running here",
                "a running one",
                "press Ctrl-C where it was started",
            )
        feed.ask_to_stop(self.folder)
        return {}

    def export(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Write the changed network; of the chosen one as it is, everything is there already."""
        known, net = self.following.look(), self.net()
        changed = whatif.edited(net, _changes(asked))
        if changed.id == net.id and known.choice:
            return {"folder": str(self.folder), "files": self._files(known), "trained": True}
        analyse(changed)
        classes = list(known.choice["data"]["classes"]) if known.choice else []
        paths = experiments.written(self.folder, changed, classes)
        names = [f"{path.parent.name}/{path.name}" for path in paths]
        return {"folder": str(paths[0].parent), "files": names, "trained": False}


def _pictures(source: str) -> dict[str, Any]:
    try:
        found = [plots.png(np.asarray(pixels), PICTURE_PX) for pixels in preview(source)]
    except (ConvwiseError, OSError, ValueError) as error:
        return {"pictures": [], "why": str(error)}
    return {"pictures": found, "why": ""}


def _changes(asked: dict[str, Any]) -> list[whatif.Change]:
    rows = asked.get("changes", [])
    if not isinstance(rows, list):
        raise UnusableInput("changes", f"is {rows!r}", "a list")
    return [whatif.Change.from_json(row) for row in rows]


def application(page: Page, where: Door) -> Starlette:
    """The ASGI application of a page at its door."""

    def read(give: Callable[[], Any]) -> Callable[[Request], Response]:
        return lambda request: _told(give)

    def act(do: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                asked = await request.json()
            except ValueError:
                asked = None
            if not isinstance(asked, dict):
                return PlainTextResponse("JSON is expected.\n", 400)
            return await run_in_threadpool(_told, lambda: do(asked))

        return answer

    def state_of(request: Request) -> Response:
        found = page.state(request.query_params.get("since", ""))
        return Response(status_code=204) if found is None else JSONResponse(found)

    def plot(request: Request) -> Response:
        svg = page.plot(request.path_params["name"])
        return Response(svg, media_type="image/svg+xml", status_code=200 if svg else 204)

    def file(request: Request) -> Response:
        name = request.path_params["name"]
        inside, _, last = name.rpartition("/")
        ours = name in GIVEN or (_is_what_if(inside) and last in WRITTEN)
        if not ours or not (page.folder / name).is_file():
            return PlainTextResponse("There is no such file here.\n", 404)
        return FileResponse(page.folder / name, filename=last)

    def report(request: Request) -> Response:
        path = page.folder / "report.html"
        if not path.is_file():
            return PlainTextResponse(
                "There is no report yet: the study writes it when it ends.\n", 404
            )
        return FileResponse(
            path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY}
        )

    actions = {"what-if": page.what_if, "test": page.test, "test/stop": page.stop_test,
               "stop": page.stop,
               "export": page.export}  # fmt: skip
    routes = [
        Route("/", lambda request: FileResponse(STATIC / "page.html", media_type="text/html")),
        Route("/report", report),
        Route("/report.css", lambda request: FileResponse(LOOK, media_type="text/css")),
        Route("/files/{name:path}", file),
        Route("/api/state", state_of),
        Route("/api/layers", read(page.layers)),
        Route("/api/pictures", read(page.pictures)),
        Route("/api/plots/{name}", plot),
        *(Route(f"/api/{name}", act(do), methods=["POST"]) for name, do in actions.items()),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, door=where)])


def _is_what_if(folder: str) -> bool:
    name = folder.removeprefix("what-if-")
    return name != folder and name.isalnum()


def _told(give: Callable[[], Any]) -> Response:
    """What it gives as JSON; an error as its problem."""
    try:
        return JSONResponse(give())
    except ConvwiseError as error:
        return JSONResponse({"error": str(error)}, 409)
    except (TypeError, ValueError, OverflowError) as error:
        return JSONResponse({"error": f"this cannot be asked: {error}"}, 400)


def check_folder(folder: Path) -> None:
    """UnusableInput where `folder` is none of a study, nor an empty one that awaits its study."""
    if not folder.is_dir():
        raise UnusableInput(
            str(folder),
            "is not a folder",
            "one that `convwise choose` writes",
            "convwise choose IMAGES",
        )
    inside = {path.name for path in folder.iterdir()} - {".page.json"}
    if inside and not inside & {"study.db", "choice.json", feed.WORK}:
        raise UnusableInput(
            str(folder), "holds no study", "a folder that `convwise choose` writes, or an empty one"
        )


def serve(folder: Path, host: str, port: int | None, ready: Callable[[Door], None]) -> None:
    """Serve the page of `folder` until Ctrl-C. ready: told where it is, once it listens.

    UnusableInput where the folder is no study's, or the address cannot be had.
    """
    check_folder(folder)
    try:
        where, bound = door(folder, host, port)
    except OSError as error:
        what = f"{host} port {port or 'any'} is not available ({error.strerror})"
        raise UnusableInput(
            "--port", what, "a free port of this machine", "another --port, or none"
        ) from error
    page = Page(folder)
    config = uvicorn.Config(
        application(page, where), log_level="error", access_log=False, server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    bound.listen(128)
    try:
        with suppress(KeyboardInterrupt):  # how it ends
            ready(where)
            uvicorn.Server(config).run(sockets=[bound])
    finally:
        bound.close()
        page.experiments.close()
