"""Routes, answers, and a small server of them on a Unix socket."""
import asyncio
import copy
import functools
import json
import os
import re
from urllib.parse import parse_qsl, unquote, urlsplit


class Response:
    """A body, or with `takes_over` a coroutine that gets the connection after the protocols were switched."""

    def __init__(self, text="", status=200, content_type="text/plain", body=None, takes_over=None):
        self.text, self.status, self.content_type, self.takes_over = text, status, content_type, takes_over
        self.body = text.encode() if body is None else body


def json_response(data, status=200):
    return Response(json.dumps(data), status, "application/json")


class Headers(dict):
    """Names in any case."""

    def get(self, name, default=None):
        return super().get(name.lower(), default)


class Request:
    def __init__(self, method, target, headers, body, match):
        url = urlsplit(target)
        self.method, self.path, self.query, self.headers = method, url.path, dict(parse_qsl(url.query)), Headers(headers)
        self.body, self.match_info, self.remote = body, match, ""

    def clone(self, remote):
        other = copy.copy(self)
        other.remote = remote
        return other

    async def json(self):
        return json.loads(self.body)

    async def text(self):
        return self.body.decode()


class Resource:
    def __init__(self, path, folder=None):
        self.path, self.folder = path, folder
        parts = re.split(r"(\{\w+(?::[^{}]*)?\})", path)
        self.pattern = "".join(self._part(part) for part in parts) + ("/(?P<filename>.+)" if folder else "")

    @staticmethod
    def _part(part):
        found = re.fullmatch(r"\{(\w+)(?::([^{}]*))?\}", part)
        return f"(?P<{found[1]}>{found[2] or '[^{}/]+'})" if found else re.escape(part)

    def get_info(self):
        return {"prefix": self.path, "directory": self.folder} if self.folder else {"path": self.path}


class RouteDef:
    def __init__(self, method, path, handler, folder=None):
        self.method, self.path, self.handler = method, path, handler
        self.resource = Resource(path, folder)


def static(prefix, folder):
    async def file(request):
        path = os.path.join(folder, request.match_info["filename"])
        if ".." in path or not os.path.isfile(path):
            return Response("not found", 404)
        with open(path, "rb") as found:
            return Response(body=found.read(), content_type="application/octet-stream")
    return RouteDef("GET", prefix, file, folder)


class RouteTableDef(list):
    def _adds(self, method, path):
        def decorate(handler):
            self.append(RouteDef(method, path, handler))
            return handler
        return decorate

    def get(self, path):
        return self._adds("GET", path)

    def post(self, path):
        return self._adds("POST", path)


class Router:
    def __init__(self):
        self.defined = []

    def routes(self):
        return list(self.defined)

    def resolve(self, method, path):
        for route in self.defined:
            found = re.fullmatch(route.resource.pattern, path)
            if found and route.method == method:
                return route.handler, {name: unquote(value) for name, value in found.groupdict().items()}
        return None, {}


def middleware(function):
    return function


class Application:
    def __init__(self, **options):
        self.router, self.middlewares = Router(), []

    def add_routes(self, routes):
        self.router.defined.extend(routes)


class AppRunner:
    def __init__(self, app, access_log=None):
        self.app = app

    async def setup(self):
        pass


class UnixSite:
    def __init__(self, runner, path):
        self.app, self.path = runner.app, path

    async def start(self):
        await asyncio.start_unix_server(self._connected, self.path)

    async def _connected(self, reader, writer):
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def _one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        handler, match = self.app.router.resolve(method, urlsplit(target).path)
        answer = Response("not found", 404)
        if handler is not None:
            try:
                for around in reversed(self.app.middlewares):
                    handler = functools.partial(around, handler=handler)
                answer = await handler(Request(method, target, headers, body, match))
            except Exception as error:
                answer = Response(str(error), 500)
        if answer.takes_over is not None:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: stub\r\n\r\n")
            await answer.takes_over(reader, writer)
            return False
        writer.write(f"HTTP/1.1 {answer.status} Stub\r\nContent-Type: {answer.content_type}\r\n"
                     f"Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body)
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    @staticmethod
    async def _chunks(reader):
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
