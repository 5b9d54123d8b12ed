"""What hubs do when somebody pushes: repositories are made, large files stored by their digests, commits made of both.

It speaks with the hubs' own libraries and keeps what comes: `server.hub` is then the stand-in hub with the repository's files.
"""

import base64
import hashlib
import json
from collections.abc import Collection
from urllib.parse import urlsplit

import standin_hub
from standin_hub import StandinHub, StandinServer


class UploadServer(StandinServer):
    """Also takes pushes. `tokens` are those that may write; `asked` holds each request's line, `sent` the token with it."""

    def __init__(self):
        super().__init__()
        self.RequestHandlerClass = _Handler
        self.tokens, self.asked, self.sent = {"secret"}, [], set()
        self.blobs: dict[str, bytes] = {}
        self.made: dict[str, dict] = {}
        self.hub = StandinHub({"README.md": b""})

    def commit(self, files: dict[str, bytes], gone: Collection[str] = ()) -> None:
        before = self.hub.head.files if self.hub.commits else {}
        self.hub.files = {name: content for name, content in before.items() if name not in gone} | files
        self.hub.push(self.hub.files)


class _Handler(standin_hub._Handler):
    def do_GET(self):
        path = urlsplit(self.path).path
        if path == f"/api/v1/models/{standin_hub.REPOSITORY}":
            self.server.asked.append(f"GET {path}")
            if standin_hub.REPOSITORY in self.server.made:
                owner, name = standin_hub.REPOSITORY.split("/")
                self._json(200, {"Code": 200, "Success": True, "Data": {"Path": owner, "Name": name}})
            else:
                self._json(404, {"Code": 10010205001, "Message": "record not found", "Success": False})
        else:
            super().do_GET()

    def do_POST(self):
        path, body = urlsplit(self.path).path, self._body()
        self.server.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif not self._may_write():
            self._json(401, {"error": "Invalid credentials", "Code": 10010101001, "Message": "no", "Success": False})
        elif path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'owner'}/{given['name']}"
            self.server.made[name] = given
            self._json(200, {"url": f"{self.server.endpoint}/{name}", "name": name})
        elif path == "/api/v1/models":
            given = json.loads(body)
            self.server.made[f"{given['Path']}/{given['Name']}"] = given
            self._json(200, {"Code": 200, "Success": True, "Data": {"Path": given["Path"], "Name": given["Name"]}})
        elif "/preupload/" in path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if _large(file["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._json(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [self._wanted(each) for each in json.loads(body)["objects"]]
            self._json(200, {"objects": objects, "transfer": "basic", "Code": 200, "Data": {"objects": objects}})
        elif "/commit/" in path:
            self._commit(body, modelscope=path.startswith("/api/v1/"))
        else:
            self._json(404, {"error": "no such place"})

    def do_PUT(self):
        body = self._body()
        self.server.asked.append(f"PUT {len(body)}")
        oid = urlsplit(self.path).path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            self._json(400, {"error": "another digest"})
            return
        self.server.blobs[oid] = body
        self._json(200, {"Code": 200})

    def _wanted(self, given: dict) -> dict:
        if given["oid"] in self.server.blobs:
            return {"oid": given["oid"], "size": given["size"]}
        return given | {"actions": {"upload": {"href": f"{self.server.endpoint}/blobs/{given['oid']}"}}}

    def _commit(self, body: bytes, modelscope: bool) -> None:
        files, gone = {}, set()
        if modelscope:
            for action in json.loads(body)["actions"]:
                if action["action"] == "delete":
                    gone.add(action["path"])
                    continue
                large = action["type"] == "lfs"
                files[action["path"]] = (
                    self.server.blobs[action["sha256"]] if large else base64.b64decode(action["content"])
                )
        else:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.blobs[value["oid"]]
                elif line["key"] == "deletedFile":
                    gone.add(value["path"])
        self.server.commit(files, gone)
        address = f"{self.server.endpoint}/{standin_hub.REPOSITORY}/commit/{self.server.hub.head.sha}"
        values = {"commitUrl": address, "commitOid": self.server.hub.head.sha, "pullRequestUrl": None}
        self._json(200, {"Code": 200, "Success": True, "Data": values, **values})

    def _may_write(self) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.server.sent.add(token)
        return token in self.server.tokens

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


def _large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))
