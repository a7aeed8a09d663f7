"""An MCP server of the standard library alone, which starts at once and misbehaves on demand.

`python plain.py FOLDER MODE` on stdio, `python plain.py FOLDER MODE PORT` over streamable HTTP.
Each start leaves a file with its pid in FOLDER; what comes in is written to `messages.log` there.
"""

import base64
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Message = dict[str, Any]
FOLDER = Path(sys.argv[1])
MODE = sys.argv[2]
SESSION = uuid.uuid4().hex
READ_ONLY = {"readOnlyHint": True}


def text(said: str, **more: Any) -> Message:
    return {"content": [{"type": "text", "text": said}], **more}


def answered(ident: int, result: Message) -> Message:
    return {"jsonrpc": "2.0", "id": ident, "result": result}


def encoded(body: bytes) -> str:
    return base64.b64encode(body).decode()


class Server:
    """Answers messages. `send` puts out what is not an answer."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.send = send
        self.lists = 0
        self.tools: dict[str, Message] = {
            "add": {"annotations": READ_ONLY},
            "write": {},
            "die": {},
            "die_once": {"annotations": READ_ONLY},
            "hang": {},
            "recite": {},
            "show": {},
            "facts": {},
            "work": {},
            "grow": {},
            "variables": {},
            "fail": {},
        }
        if MODE == "odd":
            self.tools |= {"odd.name": {}, "odd_name": {}}
        elif MODE == "gateway":
            self.tools |= {"admin__add": {}}

    def answer(self, message: Message) -> Message | None:
        with (FOLDER / "messages.log").open("a", encoding="utf-8") as log:
            log.write(json.dumps(message) + "\n")
        method = message.get("method")
        params: Message = message.get("params") or {}
        if "id" not in message:
            return None
        if f"hang_{method}".replace("/", "_") == MODE:
            return None
        if method == "initialize":
            result = self.started()
        elif method == "tools/list":
            result = self.listed(message["id"])
        elif method == "tools/call":
            result = self.call(params["name"], params.get("arguments") or {}, params.get("_meta") or {})
        else:
            result = {}
        if result is None or "error" in result:
            return result
        return answered(message["id"], result)

    def started(self) -> Message | None:
        again = len(list(FOLDER.glob("*.pid"))) > 1
        if MODE == "hang_again" and again:
            return None
        while MODE == "wait_again" and again and not (FOLDER / "go").exists():
            time.sleep(0.02)
        return {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "plain", "version": "1"},
        }

    def listed(self, ident: int) -> Message | None:
        self.lists += 1
        if MODE == "hang_second_list" and self.lists > 1:
            return None
        if MODE == "refuse_once" and "extra" in self.tools and not (FOLDER / "refused").exists():
            (FOLDER / "refused").touch()
            self.notify("tools/list_changed", {})
            return {"jsonrpc": "2.0", "id": ident, "error": {"code": -32603, "message": "not now"}}
        result = {
            "tools": [
                {"name": name, "description": f"Does {name}.", "inputSchema": {"type": "object"}, **more}
                for name, more in self.tools.items()
            ]
        }
        if MODE == "more_later" and "extra" not in self.tools:
            self.send(answered(ident, result))
            self.do_grow({}, {})
            return None
        return result

    def call(self, name: str, arguments: Message, meta: Message) -> Message | None:
        if name == "hang":
            return None
        if name == "die" or (name == "die_once" and not (FOLDER / "died").exists()):
            (FOLDER / "died").touch()
            os._exit(1)
        doing = getattr(self, f"do_{name}", None)
        return doing(arguments, meta) if doing else text(f"called {name}")

    def do_add(self, arguments: Message, meta: Message) -> Message:
        return text(f"{arguments['a'] + arguments['b']} by {os.getpid()}")

    def do_write(self, arguments: Message, meta: Message) -> Message:
        return text("written")

    def do_recite(self, arguments: Message, meta: Message) -> Message:
        return text("first " + "x" * (arguments["length"] - 11) + " last")

    def do_show(self, arguments: Message, meta: Message) -> Message:
        return shown()

    def do_facts(self, arguments: Message, meta: Message) -> Message:
        return {"content": [], "structuredContent": {"answer": 42}}

    def do_work(self, arguments: Message, meta: Message) -> Message:
        for done in range(1, 101):
            progress = {"progressToken": meta["progressToken"], "progress": done, "total": 100}
            self.notify("progress", {**progress, "message": "counting"})
        return text("worked")

    def do_grow(self, arguments: Message, meta: Message) -> Message:
        del self.tools["add"]
        self.tools["extra"] = {}
        self.notify("tools/list_changed", {})
        return text("grown")

    def do_variables(self, arguments: Message, meta: Message) -> Message:
        return text(json.dumps(dict(os.environ)))

    def do_fail(self, arguments: Message, meta: Message) -> Message:
        return text("it is closed on Sundays", isError=True)

    def notify(self, what: str, params: Message) -> None:
        self.send({"jsonrpc": "2.0", "method": f"notifications/{what}", "params": params})


def shown() -> Message:
    blob = {"uri": "file:///data.bin", "mimeType": "application/octet-stream", "blob": encoded(b"abc")}
    note = {"uri": "file:///note.txt", "mimeType": "text/plain", "text": "a note"}
    return {
        "content": [
            {"type": "text", "text": "here"},
            {"type": "image", "mimeType": "image/png", "data": encoded(b"\x89PNG")},
            {"type": "audio", "mimeType": "audio/wav", "data": encoded(b"RIFF")},
            {"type": "resource", "resource": blob},
            {"type": "resource", "resource": note},
            {"type": "resource_link", "uri": "https://example.org/x", "name": "x", "mimeType": "text/html"},
        ]
    }


def on_stdio() -> None:
    def send(message: Message) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    if MODE == "exit":
        sys.exit("no licence for this machine")
    server = Server(send)
    for line in sys.stdin:
        if MODE == "garbage":
            sys.stdout.write("loading ...\n{not json\n")
        elif MODE == "bytes":
            sys.stdout.buffer.write(b"\xff\xfe\n")
            sys.stdout.flush()
        answer = server.answer(json.loads(line))
        if answer is not None:
            send(answer)


def over_http(port: int) -> None:
    server = Server(lambda _: None)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.headers.get("mcp-session-id") in (None, SESSION)
            if MODE.isdigit() or not known:
                return self.reply(int(MODE) if MODE.isdigit() else 404, b"no")
            answer = server.answer(message)
            if answer is None:
                return self.reply(202, b"")
            return self.reply(200, json.dumps(answer).encode())

        def do_GET(self) -> None:
            self.reply(405, b"")

        def do_DELETE(self) -> None:
            self.reply(200, b"")

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("mcp-session-id", SESSION)
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            return None

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    (FOLDER / f"{os.getpid()}.pid").touch()
    if len(sys.argv) > 3:
        over_http(int(sys.argv[3]))
    else:
        on_stdio()
