"""A small stand-in for the Hugging Face Hub: what pushing and pulling a model ask of it."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_good"
REVISION = "0" * 39 + "1"
# Headers that a hostile hub sends in place of true ones.
LIES: dict[str, str] = {}


class Hub(BaseHTTPRequestHandler):
    """Answers requests; ``server.repositories`` maps names to files, by their names."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": len(data)} | named | LIES).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def missing(self, code):
        self.answer(404, X_Error_Code=code, X_Error_Message="no such thing")

    def do_POST(self):
        data, server = self.body(), self.server
        server.asked.append((self.command, self.path))
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.path.endswith("objects/batch") and (
            self.headers.get("Authorization") != f"Bearer {TOKEN}"
        ):
            return self.answer(401, X_Error_Message="Invalid user token")
        if self.path == "/api/repos/create":
            wish = json.loads(data)
            name = f"{wish['organization']}/{wish['name']}"
            if name in server.repositories:
                return self.answer(409, {"url": f"{server.address}/{name}"})
            server.repositories[name] = {}
            server.wishes[name] = wish
            return self.answer(200, {"url": f"{server.address}/{name}"})
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith("tensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(data)["files"]
            ]
            return self.answer(200, {"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{server.address}/lfs/{each['oid']}"}}}
                for each in json.loads(data)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self.commit(server.repositories[found[1]], data)
            address = f"{server.address}/{found[1]}/commit/{REVISION}"
            return self.answer(200, {"commitUrl": address, "commitOid": REVISION})
        return self.answer(404)

    def commit(self, files, data):
        for line in data.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]

    def do_PUT(self):
        data = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.objects[oid] = data
        self.answer(200)

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
        if not found or found[1] not in self.server.repositories:
            return self.missing("RepoNotFound")
        if found[2] not in ("main", REVISION):
            return self.missing("RevisionNotFound")
        data = self.server.repositories[found[1]].get(found[3])
        if data is None:
            return self.missing("EntryNotFound")
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(200, data, ETag=etag, X_Repo_Commit=REVISION)

    do_HEAD = do_GET


@contextmanager
def serving():
    """A hub without repositories, at ``address``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.wishes, server.objects, server.asked = {}, {}, {}, []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
