"""A pack with scripts for the front end and with routes: `/stub/hello/{name}`, `/stub/files/{path:.*}`, `POST /stub/echo`, `/stub/who`,
which tells who asks, and `/stub/socket`, which switches protocols and echoes bytes."""
from aiohttp import web

from server import PromptServer

WEB_DIRECTORY = "js"
NODE_CLASS_MAPPINGS = {}
routes = PromptServer.instance.routes


@routes.get("/stub/hello/{name}")
async def hello(request):
    return web.json_response({"hello": request.match_info["name"], "query": request.query})


@routes.get("/stub/files/{path:.*}")
async def files(request):
    return web.Response(request.match_info["path"])


@routes.post("/stub/echo")
async def echo(request):
    return web.Response(body=request.body, content_type=request.headers.get("content-type", "application/octet-stream"))


@routes.get("/stub/who")
async def who(request):
    return web.Response(request.remote)


@routes.get("/stub/socket")
async def socket(request):
    async def takes_over(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    return web.Response(takes_over=takes_over)


@routes.get("/stub/restart")
async def restart(request):
    raise SystemExit(0)                                     # as Manager ends ComfyUI after it left its note
