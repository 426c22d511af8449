"""A hub on loopback that gives and takes: what loading and sending needs of the API, and what arrived by it."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

TOKEN = "hf_stand_in"
COMMIT = "1" * 40
NAME = "([^/]+(?:/[^/]+)?)"
# How the hub names what has no owner's name in front.
OWNERS = {
    "squad": "rajpurkar",
    "distilbert-base-uncased": "distilbert",
    "distilbert-base-uncased-distilled-squad": "distilbert",
}


class StandInHub(ThreadingHTTPServer):
    """Collects `repositories` (name to what was asked for), `uploads` (oid to bytes) and `files` (path to bytes).

    With `is_full` it takes everything but the commit. It gives what is in `folders`: kind (`models` or `datasets`) and
    name with owner to a folder. Names in `private` are not there for who has no token, nobody has asked for those in
    `gated`, and of files named in `broken` it sends the first half.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.forget()

    def forget(self):
        """Be as new: nothing has been asked for or sent, and there is nothing to give."""
        self.requests, self.repositories, self.uploads, self.files, self.commits = [], {}, {}, {}, 0
        self.is_full = False
        self.folders, self.private, self.gated, self.broken = {}, set(), set(), set()


@contextlib.contextmanager
def running_hub():
    """Yield a `StandInHub` that answers while the block lasts."""
    with StandInHub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def save_as_on_hub(splits, folder):
    """Write a data set as SQuAD lies on the hub: a card, and a Parquet file for each split.

    Args:
        splits: dictionary from split to list of examples, as `read_examples` returns them.
        folder: existing one.
    """
    answers = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
    texts = [(name, pa.string()) for name in ("id", "title", "context", "question")]
    (folder / "plain_text").mkdir()
    files = {split: f"plain_text/{split}-00000-of-00001.parquet" for split in splits}
    for split, examples in splits.items():
        table = pa.Table.from_pylist(examples, pa.schema([*texts, ("answers", answers)]))
        pq.write_table(table, folder / files[split])
    data_files = [{"split": split, "path": path} for split, path in files.items()]
    card = {"configs": [{"config_name": "plain_text", "data_files": data_files}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n", encoding="utf-8")


def metadata_errors(text):
    """Check a card's metadata by the rules of the hub's model card specification."""
    found = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    data = yaml.safe_load(found.group(1)) if found else None
    if not isinstance(data, dict):
        return ["there is no metadata"]
    errors = []
    for key in ("library_name", "pipeline_tag"):
        if not isinstance(data.get(key), str):
            errors.append(f"{key} is no text")
    for key in ("tags", "datasets"):
        if key in data and not (isinstance(data[key], list) and all(isinstance(entry, str) for entry in data[key])):
            errors.append(f"{key} is no list of texts")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.get("base_model", "a")):
        errors.append("base_model is no model on the hub")
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not (model.get("name") and result["task"].get("type")):
                errors.append("model-index lacks name or task")
            if not {"name", "type"} <= result["dataset"].keys():
                errors.append("model-index lacks the data set")
            if not all(metric.get("type") and isinstance(metric.get("value"), float) for metric in result["metrics"]):
                errors.append("model-index lacks metrics")
    return errors


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def _answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _is_known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path != "/api/whoami-v2":
            self._give()
        elif self._is_known():
            self._answer({"name": "tester", "type": "user", "orgs": []})
        else:
            self._answer({"error": "Invalid credentials"}, 401)

    def do_HEAD(self):
        self.server.requests.append(self.path)
        self._give()

    def _refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _give(self):
        """Answer with what is asked about a repository: itself, what is in its folders, or a file."""
        hub, path = self.server, unquote(self.path.partition("?")[0])
        found = re.match(rf"/api/(models|datasets)/{NAME}(?:/(revision|tree)/([^/]+)/?(.*))?$", path)
        found = found or re.match(rf"/(?:(datasets)/)?{NAME}/(resolve)/([^/]+)/(.*)$", path)
        if found is None:
            self._refuse(404, "EntryNotFound")
            return
        kind, name, action, revision, inner = found.groups()
        if name in OWNERS:
            self.send_response(307)
            self.send_header("Location", self.path.replace(f"/{name}", f"/{OWNERS[name]}/{name}", 1))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        folder = hub.folders.get((kind or "models", name))
        if folder is None or (name in hub.private and not self._is_known()):
            self._refuse(404 if self._is_known() else 401, "RepoNotFound")
        elif name in hub.gated:
            self._refuse(403 if self._is_known() else 401, "GatedRepo")
        elif revision not in (None, "main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif action == "resolve":
            self._send_file(folder / inner)
        elif action == "tree":
            self._answer([self._entry(each, folder) for each in sorted((folder / inner).glob("*"))])
        else:
            files = [each for each in folder.rglob("*") if each.is_file()]
            siblings = [{"rfilename": str(each.relative_to(folder))} for each in files]
            self._answer({"id": name, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []})

    def _entry(self, path, folder):
        entry = {"path": str(path.relative_to(folder)), "oid": COMMIT, "size": 0, "type": "directory"}
        if path.is_file():
            entry |= {"type": "file", "size": path.stat().st_size, "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
        return entry

    def _send_file(self, path):
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if path.name in self.server.broken else body)

    def do_PUT(self):
        self.server.requests.append(self.path)
        self.server.uploads[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self):
        hub, path, body = self.server, self.path, self._body()
        hub.requests.append(path)
        if not self._is_known():
            self._answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
            hub.repositories[name] = asked
            self._answer({"url": f"{hub.url}/{name}"})
        elif path == "/api/validate-yaml":
            errors = metadata_errors(json.loads(body)["content"])
            self._answer({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)
        elif path.endswith("/preupload/main"):
            # The hub too keeps binary files apart, by their suffix.
            files = [
                {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                for file in json.loads(body)["files"]
                for mode in ["lfs" if file["path"].endswith(".bin") else "regular"]
            ]
            self._answer({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{hub.url}/uploads/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif hub.is_full:
            self._answer({"error": "There is no room left"}, 507)
        elif path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.uploads[value["oid"]]
            hub.commits += 1
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            self._answer({"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        else:
            self._answer({"error": "not found"}, 404)
