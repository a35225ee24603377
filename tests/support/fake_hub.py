"""A Hugging Face hub on loopback: what an upload and a download of a model need of its HTTP interface, kept in memory.

Small files come in the commit itself, weights by the LFS protocol (batch, upload, verify).
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_fake"


class FakeHub(ThreadingHTTPServer):
    """repositories: id → file name → content of main. revisions: id → name → the same, of each commit's sha, too.

    commits, requests: what came in. private: ids.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.stored: dict[str, bytes] = {}
        self.commits: list[list[dict[str, Any]]] = []
        self.requests: list[str] = []

    def sha(self, files: dict[str, bytes]) -> str:
        return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _is_refused(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        return self.headers.get("Authorization") != f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        body, refused = self._body(), self._is_refused()
        if self.path == "/api/validate-yaml":  # open to all
            assert json.loads(body)["content"].startswith("---\n")
            return self._answer(200, {"errors": [], "warnings": []})
        if refused:
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [{**o, "actions": {"upload": {"href": f"{self.server.url}/store/{o['oid']}"}}}
                       for o in json.loads(body)["objects"]]  # fmt: skip
            return self._answer(200, {"transfer": "basic", "objects": objects})
        _, _, _, owner, name, what, _ = self.path.split("?")[0].split("/")
        if what == "preupload":
            files = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                      "shouldIgnore": False} for f in json.loads(body)["files"]]  # fmt: skip
            return self._answer(200, {"files": files})
        assert what == "commit", self.path
        return self._commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> None:
        repository = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.server.url}/{repository}"
        if repository in self.server.repositories:
            return self._answer(409, {"error": "You already created this model repo", "url": url})
        self.server.repositories[repository] = {}
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.server.private.add(repository)
        return self._answer(200, {"url": url})

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        self.server.commits.append(lines)
        files = self.server.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        sha = self.server.sha(files)
        self.server.revisions.setdefault(repository, {})[sha] = dict(files)
        self._answer(200, {"commitUrl": f"{self.server.url}/{repository}/commit/{sha}", "commitOid": sha})

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.stored[oid] = content
        self._answer(200)

    def do_GET(self) -> None:
        refused = self._is_refused()
        path = self.path.split("?")[0].strip("/").split("/")
        repository = "/".join(path[2:4] if path[0] == "api" else path[:2])
        files = self.server.repositories.get(repository)
        if files is None or (refused and repository in self.server.private):
            return self._answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        # OWNER/NAME/resolve/REVISION/FILE, api/models/OWNER/NAME, api/models/OWNER/NAME/revision|tree/REVISION
        revision = (path[3:4] if path[0] != "api" else path[5:6] or ["main"])[0]
        files = files if revision == "main" else self.server.revisions[repository].get(revision)
        if files is None:
            return self._answer(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
        sha = self.server.sha(files)
        if path[0] != "api":
            content = files.get("/".join(path[4:]))
            if content is None:
                return self._answer(404, X_Error_Code="EntryNotFound")
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self._answer(200, content, ETag=etag, X_Repo_Commit=sha)
        if len(path) > 4 and path[4] == "tree":
            return self._answer(200, [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                                      for name, content in sorted(files.items())])  # fmt: skip
        siblings = [{"rfilename": name} for name in sorted(files)]
        return self._answer(200, {"id": repository, "sha": sha, "siblings": siblings, "private": False, "tags": []})

    do_HEAD = do_GET


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
