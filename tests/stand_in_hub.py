"""A hub on loopback that takes models: the part of the API that sending one needs, and what arrived by it."""

import base64
import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_stand_in"


class StandInHub(ThreadingHTTPServer):
    """Collects `repositories` (name to what was asked for), `uploads` (oid to bytes) and `files` (path to bytes).

    With `is_full` it takes everything but the commit.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests, self.repositories, self.uploads, self.files, self.commits = [], {}, {}, {}, 0
        self.is_full = False


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

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/whoami-v2":
            self._answer({"name": "tester", "type": "user", "orgs": []})
        else:
            self._answer({"error": "not found"}, 404)

    def do_PUT(self):
        self.server.requests.append(self.path)
        self.server.uploads[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_POST(self):
        hub, path, body = self.server, self.path, self._body()
        hub.requests.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
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
            oid = "1" * 40
            self._answer({"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})
        else:
            self._answer({"error": "not found"}, 404)
