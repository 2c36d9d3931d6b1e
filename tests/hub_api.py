"""What the Hub answers: one method a route, each returning a reply of hub_http.py."""

import base64
import json
import re
from urllib.parse import parse_qs, quote, urlsplit

import yaml
from hub_collections import DATE, CollectionsApi
from hub_http import HubError
from hub_store import Blob, Commit, Repo

# What may follow a repo id: so ids without a namespace (gpt2) are told from those with one.
REPO_ACTIONS = (
    "revision|tree|refs|commits|paths-info|preupload|commit|branch|tag|settings|discussions|auth-check|resolve"
)


class HubApi(CollectionsApi):
    """The routes of models, datasets and spaces, and of the storage host of LFS."""

    # Who and what

    def whoami(self):
        if (user := self.user()) is None:
            raise HubError(401, None, "Invalid username or password.")
        access = {"type": "access_token", "accessToken": {"displayName": "stand-in", "role": "write"}}
        return self.json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": access})

    def validate_yaml(self):
        return self.json({"warnings": [], "errors": []})

    def create_repo(self):
        payload = json.loads(self.body)
        owner = payload.get("organization") or self.user()
        self.check_may_write(owner)
        repo_type, repo_id = payload.get("type") or "model", f"{owner}/{payload['name']}"
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        exists = (repo_type, repo_id) in self.hub.store.repos
        if repo_type == "space" and "sdk" not in payload:
            raise HubError(400, None, "a Space needs an sdk")
        if not exists:
            repo = self.hub.store.create_repo(repo_type, repo_id, private=payload.get("visibility") == "private")
            repo.sdk = payload.get("sdk")
        return self.json({"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id}, status=409 if exists else 200)

    def delete_repo(self):
        payload = json.loads(self.body)
        owner = payload.get("organization") or self.user()
        self.check_may_write(owner)
        key = (payload.get("type") or "model", f"{owner}/{payload['name']}")
        if self.hub.store.repos.pop(key, None) is None:
            raise HubError(404, "RepoNotFound", "Repository not found")
        return self.json({})

    def repo_info(self, repo: Repo, revision: str = "main"):
        commit = self.at(repo, revision)
        entries = [self.entry(path, blob) for path, blob in sorted(commit.files.items())]
        with_blobs = self.query.get("blobs") in ("1", "true", "True")
        more = ("size", "blobId", "lfs") if with_blobs else ()
        card = commit.files.get("README.md")
        info = {
            "id": repo.repo_id,
            "sha": commit.sha,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "tags": [],
            "lastModified": DATE,
            "siblings": [{"rfilename": e["path"], **{k: e[k] for k in more if k in e}} for e in entries],
            "cardData": _card_data(card.data) if card else None,
        }
        return self.json(info)

    def auth_check(self, repo: Repo):
        return self.json({})

    def settings(self, repo: Repo):
        payload = json.loads(self.body)
        repo.private = payload.get("visibility", "private" if repo.private else "public") == "private"
        repo.gated = bool(payload.get("gated", repo.gated))
        return self.json({})

    # Listings

    def entry(self, path: str, blob: Blob) -> dict:
        size = len(blob.data)
        entry = {"type": "file", "path": path, "size": size, "oid": blob.oid, "blobId": blob.oid}
        if blob.is_lfs:
            lfs = {"oid": blob.sha256, "sha256": blob.sha256, "size": size, "pointerSize": len(blob.pointer)}
            entry["lfs"] = lfs
        return entry

    def tree(self, repo: Repo, revision: str, path: str = ""):
        """Entries below `path`, folders included, a page at a time, the next page's address in `Link`."""
        commit, prefix = self.at(repo, revision), f"{path}/" if path else ""
        inside = {name[len(prefix) :]: name for name in commit.files if name.startswith(prefix)}
        if path and not inside:
            raise HubError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        recursive = self.query.get("recursive", "").lower() in ("1", "true")
        folders = {"/".join(name.split("/")[:n]) for name in inside for n in range(1, name.count("/") + 1)}
        entries = [{"type": "directory", "path": prefix + f, "oid": "0" * 40, "size": 0} for f in sorted(folders)]
        entries += [self.entry(full, commit.files[full]) for full in sorted(inside.values())]
        entries = [e for e in entries if recursive or "/" not in e["path"][len(prefix) :]]
        start = int(self.query.get("cursor", 0))
        end = start + min(self.hub.page_size, int(self.query.get("limit", self.hub.page_size)))
        headers = {}
        if end < len(entries):
            query = "&".join(f"{name}={quote(value)}" for name, value in (self.query | {"cursor": str(end)}).items())
            headers["Link"] = f'<{self.hub.url}{urlsplit(self.path).path}?{query}>; rel="next"'
        return self.json(entries[start:end], headers=headers)

    def paths_info(self, repo: Repo, revision: str):
        commit = self.at(repo, revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        found = [self.entry(path, commit.files[path]) for path in paths if path in commit.files]
        folders = [path.strip("/") for path in paths if any(f.startswith(path.strip("/") + "/") for f in commit.files)]
        return self.json(found + [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders])

    def list_refs(self, repo: Repo):
        def named(kind: str) -> list[dict]:
            found = [(ref.removeprefix(kind), ref, sha) for ref, sha in repo.refs.items() if ref.startswith(kind)]
            return [{"name": name, "ref": f"refs/{ref}", "targetCommit": sha} for name, ref, sha in found]

        lists = {"branches": named("heads/"), "tags": named("tags/"), "pullRequests": named("pr/"), "converts": []}
        return self.json(lists)

    def list_commits(self, repo: Repo, revision: str):
        commit: Commit | None = self.at(repo, revision)
        history = []
        while commit is not None:
            author = {"user": repo.repo_id.split("/")[0]}
            history.append({"id": commit.sha, "title": commit.title, "message": "", "date": DATE, "authors": [author]})
            commit = repo.commits.get(commit.parent or "")
        return self.json(history)

    # Files

    def resolve(self, repo: Repo, revision: str, path: str):
        commit = self.at(repo, revision)
        here = {"X-Repo-Commit": commit.sha}
        blob = commit.files.get(path)
        if blob is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", **here}
            return lambda: self.send_bytes(404, b"Entry not found", error)
        headers = here | {"ETag": f'"{blob.etag}"', "Content-Disposition": f'inline; filename="{path}";'}
        if not blob.is_lfs:
            return self.file(blob.data, headers)
        linked = {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": f'"{blob.sha256}"'}
        where = f"{self.hub.storage_url}/storage/{blob.sha256}/{quote(path)}?signature=stand-in"
        return lambda: self.send_bytes(302, b"", headers | linked | {"Location": where})

    def storage_download(self, sha256: str):
        return self.file(self.hub.store.lfs_objects[sha256], {"ETag": f'"{sha256}"'})

    # Uploads

    def preupload(self, repo: Repo, revision: str):
        commit = self.at(repo, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if self.hub.store.is_lfs(file["path"], file["size"]) else "regular"
            blob = commit.files.get(file["path"])
            oid = blob.etag if blob else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self.json({"files": answers})

    def lfs_batch(self, repo: Repo):
        prefix = "" if repo.repo_type == "model" else f"{repo.repo_type}s/"
        verify = f"{self.hub.url}/{prefix}{repo.repo_id}.git/info/lfs/verify"
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.store.lfs_objects:
                upload: dict = {"href": f"{self.hub.storage_url}/storage/{wanted['oid']}"}
                if (chunk := self.hub.multipart_bytes) and wanted["size"] > chunk:
                    count = -(-wanted["size"] // chunk)
                    parts = {f"{n:05d}": f"{upload['href']}/{n}" for n in range(1, count + 1)}
                    upload = {"href": f"{upload['href']}/complete", "header": {"chunk_size": str(chunk), **parts}}
                answer["actions"] = {"upload": upload, "verify": {"href": verify}}
            objects.append(answer)
        return self.json({"transfer": "basic", "objects": objects})

    def storage_upload(self, sha256: str, part: str | None = None):
        self.keep(f"{sha256}/{part}" if part else sha256, self.body)
        return lambda: self.send_bytes(200, b"", {"ETag": f'"{len(self.body)}"'})

    def storage_complete(self, sha256: str):
        parts = [f"{sha256}/{part['partNumber']}" for part in json.loads(self.body)["parts"]]
        self.keep(sha256, b"".join(self.hub.store.lfs_objects.pop(part) for part in parts))
        return self.json({})

    def keep(self, name: str, data: bytes) -> None:
        """Stores an LFS object (or a part); one that is not what its name says is refused."""
        if "/" not in name and Blob(data, True).sha256 != name:
            raise HubError(400, None, "the content does not have the sha256 it was announced with")
        self.hub.store.lfs_objects[name] = data

    def lfs_verify(self, repo: Repo):
        wanted = json.loads(self.body)
        if len(self.hub.store.lfs_objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(404, None, "the object was not uploaded")
        return self.json({})

    def commit(self, repo: Repo, revision: str):
        self.at(repo, revision)
        header: dict = {}
        changes: dict[str, Blob] = {}
        deleted: list[str] = []
        for line in self.body.decode().splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                header = value
            elif key == "file":
                changes[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.store.lfs_objects:
                    raise HubError(400, None, f"{value['path']}: its LFS object was not uploaded")
                changes[value["path"]] = Blob(self.hub.store.lfs_objects[value["oid"]], True)
            else:
                deleted.append(value["path"].rstrip("/") + ("/" if key == "deletedFolder" else ""))
        if header.get("parentCommit") not in (None, self.at(repo, revision).sha):
            raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
        reply = {}
        ref = revision.removeprefix("refs/") if revision.startswith("refs/") else f"heads/{revision}"
        if self.query.get("create_pr"):
            number = repo.open_pull_request(header["summary"])
            ref = f"pr/{number}"
            reply["pullRequestUrl"] = f"{self.repo_url(repo)}/discussions/{number}"
        sha = repo.commit(ref, header["summary"], changes, deleted).sha
        return self.json(reply | {"commitOid": sha, "commitUrl": f"{self.repo_url(repo)}/commit/{sha}"})

    def repo_url(self, repo: Repo) -> str:
        return f"{self.hub.url}/{'' if repo.repo_type == 'model' else repo.repo_type + 's/'}{repo.repo_id}"

    # Branches, tags, pull requests

    def create_branch(self, repo: Repo, name: str):
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        return self.create_ref(repo, f"heads/{name}", start)

    def create_tag(self, repo: Repo, revision: str):
        return self.create_ref(repo, f"tags/{json.loads(self.body)['tag']}", revision)

    def create_ref(self, repo: Repo, ref: str, revision: str):
        if ref in repo.refs:
            raise HubError(409, None, f"{ref} exists already")
        repo.refs[ref] = self.at(repo, revision).sha
        return self.json({})

    def delete_ref(self, repo: Repo, kind: str, name: str):
        if repo.refs.pop(f"{'heads' if kind == 'branch' else 'tags'}/{name}", None) is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return self.json({})

    def create_discussion(self, repo: Repo):
        return self.json({"num": repo.open_pull_request(json.loads(self.body)["title"])})

    def discussion(self, repo: Repo, number: str):
        details = {
            "title": repo.pull_requests[int(number) - 1],
            "num": int(number),
            "author": {"name": "tester"},
            "createdAt": DATE,
            "status": "draft",
            "repo": {"name": repo.repo_id, "type": repo.repo_type},
            "isPullRequest": True,
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
            "events": [],
        }
        return self.json(details)


def _route_regex(pattern: str) -> str:
    prefix = r"(?P<type>models|datasets|spaces)/" if pattern.startswith("api/") else r"((?P<type>datasets|spaces)/)?"
    repo_id = rf"(?P<repo_id>[\w.-]+/(?!({REPO_ACTIONS})(/|$))[\w.-]+?|[\w.-]+?)"
    return pattern.replace("{repo}", prefix + repo_id)


def _card_data(readme: bytes) -> dict | None:
    front = re.match(rb"---\n(.*?)\n---", readme, re.DOTALL)
    return yaml.safe_load(front.group(1)) if front else None


HubApi.routes = [
    (methods.split("|"), re.compile(_route_regex(pattern)), handle)
    for methods, pattern, handle in (
        ("GET", r"api/whoami-v2", HubApi.whoami),
        ("POST", r"api/validate-yaml", HubApi.validate_yaml),
        ("POST", r"api/repos/create", HubApi.create_repo),
        ("DELETE", r"api/repos/delete", HubApi.delete_repo),
        ("POST", r"api/collections", HubApi.create_collection),
        ("GET", r"api/collections/(?P<slug>[^/]+/[^/]+)", HubApi.collection),
        ("POST", r"api/collections/(?P<slug>[^/]+/[^/]+)/items", HubApi.add_collection_item),
        ("GET", r"api/{repo}", HubApi.repo_info),
        ("GET", r"api/{repo}/revision/(?P<revision>[^/]+)", HubApi.repo_info),
        ("GET", r"api/{repo}/auth-check", HubApi.auth_check),
        ("GET", r"api/{repo}/tree/(?P<revision>[^/]+)(/(?P<path>.*))?", HubApi.tree),
        ("POST", r"api/{repo}/paths-info/(?P<revision>[^/]+)", HubApi.paths_info),
        ("GET", r"api/{repo}/refs", HubApi.list_refs),
        ("GET", r"api/{repo}/commits/(?P<revision>[^/]+)", HubApi.list_commits),
        ("POST", r"api/{repo}/preupload/(?P<revision>[^/]+)", HubApi.preupload),
        ("POST", r"api/{repo}/commit/(?P<revision>[^/]+)", HubApi.commit),
        ("POST", r"api/{repo}/branch/(?P<name>[^/]+)", HubApi.create_branch),
        ("POST", r"api/{repo}/tag/(?P<revision>[^/]+)", HubApi.create_tag),
        ("DELETE", r"api/{repo}/(?P<kind>branch|tag)/(?P<name>[^/]+)", HubApi.delete_ref),
        ("PUT", r"api/{repo}/settings", HubApi.settings),
        ("POST", r"api/{repo}/discussions", HubApi.create_discussion),
        ("GET", r"api/{repo}/discussions/(?P<number>\d+)", HubApi.discussion),
        ("HEAD|GET", r"{repo}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", HubApi.resolve),
        ("POST", r"{repo}\.git/info/lfs/objects/batch", HubApi.lfs_batch),
        ("POST", r"{repo}\.git/info/lfs/verify", HubApi.lfs_verify),
        ("HEAD|GET", r"storage/(?P<sha256>\w+)/.*", HubApi.storage_download),
        ("PUT", r"storage/(?P<sha256>\w+)(/(?P<part>\d+))?", HubApi.storage_upload),
        ("POST", r"storage/(?P<sha256>\w+)/complete", HubApi.storage_complete),
    )
]
