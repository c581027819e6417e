"""A small Hub on loopback: the routes that huggingface_hub, transformers and datasets call, over real HTTP.

Content lives in memory under its SHA-256; a commit is a mapping from paths to contents. There is no xet: files whose
suffix is in `lfs_suffixes` are uploaded by LFS, for which a client needs HF_HUB_DISABLE_XET=1, and all others inline.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".parquet", ".pt", ".png", ".bin")


class User(NamedTuple):
    """The user of a token."""

    name: str
    orgs: tuple[str, ...] = ()
    can_write: bool = True

    def belongs_to(self, namespace: str) -> bool:
        """Whether it is the user, or an organization of theirs."""
        return namespace in (self.name, *self.orgs)


class Entry(NamedTuple):
    """A file of a commit."""

    sha256: str
    size: int
    git_oid: str
    is_lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid

    def describe(self, path: str) -> dict[str, Any]:
        """The entry in a tree listing."""
        described = {"type": "file", "path": path, "size": self.size, "oid": self.git_oid}
        if self.is_lfs:
            described["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 130}
        return described


class Commit(NamedTuple):
    """A state of a repository."""

    id: str
    title: str
    date: str
    parent: str | None
    files: dict[str, Entry]


@dataclass
class Repo:
    """A repository of models, of a data set or of a Space."""

    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, Entry], branch: str) -> Commit:
        """Adds a commit on top of a branch."""
        parent = self.branches.get(branch)
        content = json.dumps([title, parent, len(self.commits), sorted(files.items())])
        commit_id = hashlib.sha1(content.encode()).hexdigest()  # noqa: S324 - names a commit, as git does
        commit = Commit(commit_id, title, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"), parent, files)
        self.commits[commit_id] = commit
        self.branches[branch] = commit_id
        return commit

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or a commit id."""
        revision = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        commit_id = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(commit_id)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD /path" a pattern is found in.

    `kind`: "drop" closes the connection without an answer, "error" answers 500, "truncate" announces the whole body and
    closes the connection after half of it, "lost" does as asked and closes the connection instead of answering.
    """

    kind: str
    pattern: str
    times: int = 1


class Refusal(Exception):  # noqa: N818 - an answer, not a bug
    """An unsuccessful response."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class HubServer:
    """The Hub; `with HubServer() as hub:` serves at `hub.url` until the block ends.

    Args:
        users: User of each token.
        lfs_suffixes: Suffixes of the files that are uploaded by LFS.
    """

    def __init__(self, users: dict[str, User] | None = None, *, lfs_suffixes: Sequence[str] = LFS_SUFFIXES) -> None:
        self.users = {"hf_owner": User("owner", ("org",))} if users is None else users
        self.lfs_suffixes = tuple(lfs_suffixes)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """ "METHOD /path" of every request."""
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: Any, token: str | None = "hf_owner", **more: str) -> dict[str, str]:  # noqa: S107
        """Environment of a client process: this server, a token, and separate caches in a folder."""
        left_out = ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        environment |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}
        return environment if token is None else {**environment, "HF_TOKEN": token}

    def repo(self, name: str, kind: str = "model") -> Repo:
        """An existing repository."""
        return self.repos[kind, name]

    def files(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """Contents of a revision by path."""
        commit = self.repo(name, kind).find(revision)
        return {} if commit is None else {path: self.contents[entry.sha256] for path, entry in commit.files.items()}

    # ------------------------------------------------------------------ what requests do

    def store(self, content: bytes, *, is_lfs: bool) -> Entry:
        """Keeps a content and returns the entry that refers to it."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content
        git_oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - as git names blobs
        return Entry(sha256, len(content), git_oid, is_lfs)

    def take_fault(self, request: str) -> str | None:
        """The fault of a request, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault.kind
        return None

    def create_repo(self, user: User, body: dict[str, Any]) -> dict[str, Any]:
        namespace = body.get("organization") or user.name
        name, kind = f"{namespace}/{body['name']}", body.get("type", "model")
        self.require_write(user, name)
        url = f"{self.url}/{'' if kind == 'model' else f'{kind}s/'}{name}"
        if (kind, name) in self.repos:
            raise Refusal(409, "You already created this model repo", url=url)
        private = body.get("visibility") == "private" or bool(body.get("private"))
        repo = self.repos[kind, name] = Repo(kind, name, private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in self.lfs_suffixes)
        repo.commit("initial commit", {".gitattributes": self.store(attributes.encode(), is_lfs=False)}, "main")
        return {"url": url, "name": name, "id": name}

    def require_write(self, user: User, name: str) -> None:
        namespace = name.partition("/")[0]
        if not user.can_write or not user.belongs_to(namespace):
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {namespace}")

    def apply(self, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> Commit:
        """Commits additions and deletions, all or none."""
        with self.lock:
            head = repo.find(branch)
            if head is None or branch not in repo.branches:
                raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            header = next(line["value"] for line in lines if line["key"] == "header")
            if header.get("parentCommit", head.id) != head.id:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for line in lines:
                self._change(files, line["key"], line["value"])
            return repo.commit(header["summary"], files, branch)

    def _change(self, files: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = self.store(base64.b64decode(value["content"]), is_lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.contents:
                raise Refusal(400, f"Your push was rejected because an LFS pointer points to nothing: {value['path']}")
            files[value["path"]] = self.store(self.contents[value["oid"]], is_lfs=True)
        elif key == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
                del files[path]


class _Handler(BaseHTTPRequestHandler):
    """Finds what a request asks for; `HubServer` does it."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the client to acknowledge the headers

    def log_message(self, *_: Any) -> None:
        """Logs nothing: the server keeps `requests`."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    # ------------------------------------------------------------------ answers

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        request = f"{self.command} {parts.path}"
        self.hub.requests.append(request)
        self.fault = self.hub.take_fault(request)
        if self.fault == "drop":
            self.drop()
            return
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.fault == "error":
            self.send(500, b"injected")
            return
        try:
            self.user = self.authenticate()
            self.route([unquote(part) for part in parts.path.strip("/").split("/")])
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send_json({"error": refusal.message, **refusal.body}, refusal.status, headers)

    def drop(self) -> None:
        """Closes the connection, like a network failure."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        if self.fault == "lost":
            self.drop()
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "truncate":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.drop()
            return
        self.wfile.write(body)

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def json(self) -> dict[str, Any]:
        return json.loads(self.content or b"{}")

    # ------------------------------------------------------------------ rights

    def authenticate(self) -> User | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if not token:
            return None
        if token not in self.hub.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users[token]

    def require_user(self) -> User:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return self.user

    def find_repo(self, kind: str, name: str) -> Repo:
        repo = self.hub.repos.get((kind, name))
        allowed = repo is not None and (
            not repo.private
            or (self.user is not None and name.split("/", maxsplit=1)[0] in (self.user.name, *self.user.orgs))
        )
        if repo is None or not allowed:
            raise Refusal(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def find_commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # ------------------------------------------------------------------ routes

    def route(self, parts: list[str]) -> None:
        match parts:
            case ["api", "whoami-v2"]:
                user = self.require_user()
                role = "write" if user.can_write else "read"
                auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
                orgs = [{"name": org, "type": "org"} for org in user.orgs]
                self.send_json({"type": "user", "name": user.name, "fullname": user.name, "orgs": orgs, "auth": auth})
            case ["api", "repos", "create"]:
                self.send_json(self.hub.create_repo(self.require_user(), self.json()))
            case ["api", "validate-yaml"]:
                self.validate_yaml(self.json()["content"])
            case ["api", ("models" | "datasets" | "spaces") as kinds, namespace, name, *rest]:
                self.route_repo(self.find_repo(kinds[:-1], f"{namespace}/{name}"), rest)
            case ["api", "collections", *rest]:
                self.route_collection("/".join(rest))
            case ["lfs", oid]:
                self.put_lfs(oid)
            case [("datasets" | "spaces") as kinds, namespace, name, *rest] if rest:
                self.route_files(kinds[:-1], namespace, name, rest)
            case [namespace, name, *rest] if rest:
                self.route_files("model", namespace, name, rest)
            case _:
                raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def route_repo(self, repo: Repo, rest: list[str]) -> None:
        match rest:
            case []:
                self.send_json(self.describe(repo, self.find_commit(repo, "main")))
            case ["revision", revision]:
                self.send_json(self.describe(repo, self.find_commit(repo, revision)))
            case ["tree", revision, *folder]:
                self.list_tree(self.find_commit(repo, revision), "/".join(folder))
            case ["paths-info", revision]:
                self.paths_info(self.find_commit(repo, revision))
            case ["refs"]:
                branches, tags = (
                    [
                        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
                        for name, commit in of.items()
                    ]
                    for kind, of in (("heads", repo.branches), ("tags", repo.tags))
                )
                self.send_json({"branches": branches, "tags": tags, "converts": []})
            case ["commits", revision]:
                self.list_commits(repo, self.find_commit(repo, revision))
            case _:
                self.hub.require_write(self.require_user(), repo.name)
                self.change_repo(repo, rest)

    def change_repo(self, repo: Repo, rest: list[str]) -> None:
        match rest:
            case ["preupload", revision]:
                self.preupload(self.find_commit(repo, revision))
            case ["commit", revision]:
                lines = [json.loads(line) for line in self.content.splitlines() if line]
                commit = self.hub.apply(repo, revision, lines)
                url = f"{self.hub.url}/{repo.name}/commit/{commit.id}"
                self.send_json({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})
            case ["branch", branch]:
                if branch in repo.branches:
                    raise Refusal(409, f"Reference already exists: {branch}")
                repo.branches[branch] = self.find_commit(repo, self.json().get("startingPoint") or "main").id
                self.send_json({})
            case ["tag", revision]:
                tag = self.json()["tag"]
                if tag in repo.tags:
                    raise Refusal(409, f"Tag reference exists already: {tag}")
                repo.tags[tag] = self.find_commit(repo, revision).id
                self.send_json({})
            case _:
                raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def route_collection(self, path: str) -> None:
        slug = path.removesuffix("/items")
        if not path:
            body = self.json()
            self.hub.require_write(self.require_user(), f"{body['namespace']}/")
            slug = f"{body['namespace']}/{body['title'].lower().replace(' ', '-')}-{'0' * 24}"
            if slug in self.hub.collections:
                raise Refusal(409, "Collection already exists", slug=slug)
            self.hub.collections[slug] = {
                "slug": slug,
                "title": body["title"],
                "description": body.get("description"),
                "items": [],
                "owner": {"name": body["namespace"]},
                "lastUpdated": "2026-01-01T00:00:00.000Z",
                "position": 0,
                "private": body["private"],
                "theme": "blue",
                "upvotes": 0,
            }
        elif slug not in self.hub.collections:
            raise Refusal(404, "Collection not found")
        elif path != slug:
            self.hub.require_write(self.require_user(), slug)
            item, items = self.json()["item"], self.hub.collections[slug]["items"]
            self.find_repo(item["type"], item["id"])
            if any((old["id"], old["type"]) == (item["id"], item["type"]) for old in items):
                raise Refusal(409, "Item already in collection")
            items.append({**item, "_id": f"{len(items):024}", "position": len(items)})
        self.send_json(self.hub.collections[slug])

    def route_files(self, kind: str, namespace: str, name: str, rest: list[str]) -> None:
        if rest[:3] == ["info", "lfs", "objects"] and name.endswith(".git"):
            repo = self.find_repo(kind, f"{namespace}/{name.removesuffix('.git')}")
            self.hub.require_write(self.require_user(), repo.name)
            if rest[3:] == ["batch"]:
                self.send_json(
                    {"transfer": "basic", "objects": [self.lfs_actions(of) for of in self.json()["objects"]]}
                )
            else:  # verify
                known = self.json()["oid"] in self.hub.contents
                self.send_json({}, 200 if known else 404)
        elif rest[0] == "resolve" and len(rest) > 2:
            repo = self.find_repo(kind, f"{namespace}/{name}")
            self.resolve(self.find_commit(repo, rest[1]), "/".join(rest[2:]))
        else:
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    # ------------------------------------------------------------------ reading

    def describe(self, repo: Repo, commit: Commit) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for path, entry in sorted(commit.files.items()):
            siblings.append({"rfilename": path, "size": entry.size, "blobId": entry.git_oid})
            if entry.is_lfs:
                siblings[-1]["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": 130}
        described = {
            "_id": "0" * 24,
            "id": repo.name,
            "author": repo.name.split("/")[0],
            "sha": commit.id,
            "lastModified": commit.date,
            "createdAt": next(iter(repo.commits.values())).date,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }
        readme = commit.files.get("README.md")
        if readme is not None:
            card = _front_matter(self.hub.contents[readme.sha256].decode()) or {}
            described["cardData"] = card
            if "pipeline_tag" in card:
                described["pipeline_tag"] = card["pipeline_tag"]
        if repo.kind == "model":
            described["modelId"] = repo.name
        return described

    def list_tree(self, commit: Commit, folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        listed, folders = [], {}
        for path, entry in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            inner = path.removeprefix(prefix).split("/")
            for depth in range(1, len(inner) if recursive else min(len(inner), 2)):
                name = prefix + "/".join(inner[:depth])
                folders[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            if recursive or len(inner) == 1:
                listed.append(entry.describe(path))
        if folder and not listed and not folders:
            raise Refusal(404, f"{folder} does not exist on {commit.id}", "EntryNotFound")
        self.send_json([*folders.values(), *listed])

    def paths_info(self, commit: Commit) -> None:
        if "json" in self.headers.get("Content-Type", ""):
            paths = self.json()["paths"]
        else:
            paths = parse_qs(self.content.decode()).get("paths", [])
        found = []
        for path in paths:
            if path in commit.files:
                found.append(commit.files[path].describe(path))
            elif any(file.startswith(f"{path}/") for file in commit.files):
                found.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self.send_json(found)

    def list_commits(self, repo: Repo, commit: Commit) -> None:
        listed = []
        current: Commit | None = commit
        while current is not None:
            listed.append(
                {"id": current.id, "title": current.title, "message": "", "date": current.date, "authors": []}
            )
            current = repo.commits.get(current.parent or "")
        self.send_json(listed)

    def resolve(self, commit: Commit, path: str) -> None:
        if path not in commit.files:
            message = f"File not found: {path}"
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": message, "X-Repo-Commit": commit.id}
            self.send_json({"error": message}, 404, headers)
            return
        entry = commit.files[path]
        body = self.hub.contents[entry.sha256]
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.send(200, body, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
        if first >= len(body):
            self.send(416, b"", {**headers, "Content-Range": f"bytes */{len(body)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        self.send(206, body[first : last + 1], headers)

    # ------------------------------------------------------------------ uploading

    def preupload(self, commit: Commit) -> None:
        answers = []
        for file in self.json()["files"]:
            known = commit.files.get(file["path"])
            is_lfs = file["path"].endswith(self.hub.lfs_suffixes)
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_lfs else "regular",
                    "shouldIgnore": False,
                    "oid": known.etag if known is not None and known.is_lfs == is_lfs else None,
                }
            )
        self.send_json({"files": answers})

    def lfs_actions(self, wanted: dict[str, Any]) -> dict[str, Any]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in self.hub.contents:
            verify = f"{self.hub.url}{urlsplit(self.path).path.removesuffix('/batch')}/verify"
            upload = f"{self.hub.url}/lfs/{wanted['oid']}"
            answer["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
        return answer

    def put_lfs(self, oid: str) -> None:
        if hashlib.sha256(self.content).hexdigest() != oid:
            raise Refusal(400, "The content is not what its name says")
        self.hub.contents[oid] = self.content
        self.send(200, b"")

    def validate_yaml(self, content: str) -> None:
        try:
            metadata = _front_matter(content)
        except yaml.YAMLError as error:
            self.send_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        license_id = (metadata or {}).get("license")
        if license_id not in (None, "mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-sa-4.0", "other"):
            self.send_json({"errors": [{"message": f'"license" is {license_id!r}'}], "warnings": []}, 400)
            return
        warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        self.send_json({"errors": [], "warnings": warnings})


def _front_matter(text: str) -> dict[str, Any] | None:
    found = re.match(r"---\r?\n(.*?)\r?\n---", text, flags=re.DOTALL)
    return yaml.safe_load(found[1]) if found else None
