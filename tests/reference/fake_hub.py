"""A Hugging Face hub on this machine: the answers that huggingface_hub asks for, with the status and headers that the real one gives."""

import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Repository:
    """A model on the hub.

    Attributes:
      files: contents by name.
      gated: the files are only for tokens in the hub's `granted`; the listing is for all.
      private: nobody without a known token learns that it exists.
      tags: further revisions that name the commit.
    """

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    tags: tuple[str, ...] = ()

    @property
    def commit(self) -> str:
        """Changes with the contents."""
        return hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(self.files.items()))).hexdigest()


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class Hub:
    """A server thread.

    Attributes:
      repositories: by owner/name.
      known: tokens of the hub's users.
      granted: those of them who may read gated models.
      requests: (method, path, user agent) of what was asked, in order.
      broken: answer everything with status 503.
      lost: files that are listed and not there.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.known, self.granted = {"hf_known", "hf_granted"}, {"hf_granted"}
        self.requests: list[tuple[str, str, str]] = []
        self.broken = False
        self.lost: set[str] = set()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def add(self, name: str, directory: Path, **choices: Any) -> Repository:
        """Publishes the files below a directory."""
        files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        self.repositories[name] = Repository(files, **choices)
        return self.repositories[name]

    def fetched(self) -> list[str]:
        """The files that were downloaded, as owner/name/file."""
        asked = [re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path) for method, path, _ in self.requests if method == "GET"]
        return [f"{found[1]}/{found[2]}" for found in asked if found]

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = urllib.parse.urlsplit(request.path).path
        self.requests.append((request.command, path, request.headers.get("User-Agent", "")))
        try:
            if self.broken:
                raise Refused(503, "", "down for maintenance")
            body, headers = self._find(path, request.headers.get("Authorization", "").removeprefix("Bearer "))
            status = 200
        except Refused as refused:
            status, body, headers = refused.status, b"{}", refused.headers
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value:
                request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def _find(self, path: str, token: str) -> tuple[bytes, dict[str, str]]:
        """The body and headers of an answer."""
        if token and token not in self.known:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not listing and not file:
            raise Refused(404, "", "no such page")
        name = (listing or file)[1]  # type: ignore[index]
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not token):
            raise Refused(404 if token else 401, "RepoNotFound" if token else "", "Repository not found")
        if listing:
            self._check_revision(repository, urllib.parse.unquote(listing[2] or "main"))
            siblings = [{"rfilename": file, "size": len(data)} for file, data in repository.files.items()]
            contents = {"id": name, "sha": repository.commit, "siblings": siblings, "private": repository.private}
            return json.dumps(contents).encode(), {"Content-Type": "application/json"}
        assert file is not None, "one of the two matches"
        wanted = urllib.parse.unquote(file[3])
        self._check_revision(repository, urllib.parse.unquote(file[2]))
        if repository.gated and token not in self.granted:
            raise Refused(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted")
        if wanted not in repository.files or wanted in self.lost:
            raise Refused(404, "EntryNotFound", "Entry not found")
        data = repository.files[wanted]
        return data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repository.commit}

    def _check_revision(self, repository: Repository, revision: str) -> None:
        if revision not in ("main", repository.commit, *repository.tags):
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
