"""Model files on the Hub; a local server stands in for it, and huggingface_hub is the client."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from at_terminal import invoke

from attractor_ae import AttractorError, load_model, pull_model, push_model

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """The few addresses that a commit and a download of small and of large files (LFS) need."""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        hub = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer(401)
        address = f"http://localhost:{hub.server_port}/me/digits"
        if self.path == "/api/repos/create":
            wanted = json.loads(body)  # the key depends on the client's version
            hub.private = wanted.get("private") or wanted.get("visibility") == "private"
            found = {"url": address}
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = ["lfs" if f["size"] > hub.largest else "regular" for f in files]
            pairs = zip(files, modes, strict=True)
            found = {"files": [{**f, "uploadMode": m, "shouldIgnore": False} for f, m in pairs]}
        elif self.path == "/me/digits.git/info/lfs/objects/batch":
            of = json.loads(body)["objects"]
            places = {name: {"href": f"{address}/{name}"} for name in ("upload", "verify")}
            places["upload"]["href"] += f"/{of[0]['oid']}"
            found = {"transfer": "basic", "objects": [{**of[0], "actions": places}]}
        elif self.path == "/me/digits/verify":
            wanted = json.loads(body)
            if len(hub.stored.get(wanted["oid"], b"")) != wanted["size"]:
                return self.answer(422)
            found = {}
        elif self.path == "/api/validate-yaml":  # of the card
            found = {"errors": [], "warnings": []}
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.files[line["value"]["path"]] = content
                if line["key"] == "lfsFile":
                    hub.files[line["value"]["path"]] = hub.stored[line["value"]["oid"]]
            found = {"commitUrl": f"{address}/commit/{COMMIT}", "commitOid": COMMIT}
        return self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def do_PUT(self):
        body, oid = self.rfile.read(int(self.headers["Content-Length"])), self.path.split("/")[-1]
        assert self.headers.get("Authorization") is None  # the storage is another machine
        self.server.stored[oid] = body
        return self.answer(200 if hashlib.sha256(body).hexdigest() == oid else 400)

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/stored/"):
            return self.answer(200, self.server.stored[name])
        content = self.server.files.get(name)
        if not self.path.startswith("/me/digits/resolve/") or content is None:
            return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="no such thing")
        oid = hashlib.sha256(content).hexdigest()
        if oid in self.server.stored:
            place = f"http://127.0.0.1:{self.server.server_port}/stored/{oid}"
            linked = {"X_Linked_ETag": f'"{oid}"', "X_Linked_Size": len(content)}
            return self.answer(302, b"", Location=place, X_Repo_Commit=COMMIT, **linked)
        etag = f'"{oid}"'
        return self.answer(200, content, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("localhost", 0), Hub)
    server.files, server.stored, server.private, server.largest = {}, {}, None, 10 * 2**20
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://localhost:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client, itself
@pytest.mark.parametrize("large", [False, True])
def test_a_model_comes_back_as_it_was(hub, shared_model, tmp_path, large):
    hub.largest = 100_000 if large else hub.largest  # bytes of a file in the commit itself
    shared_model.save(tmp_path / "mine.model")
    result = invoke("push", tmp_path / "mine.model", "me/digits")
    assert result.exit_code == 0, result.output
    assert f"/me/digits/commit/{COMMIT}" in result.output
    assert hub.private
    assert len(hub.stored) == large  # the card is small
    assert set(hub.files) == {"attractor-ae.model", "README.md"}
    assert hub.files["README.md"].startswith(b"---\nlibrary_name: attractor-ae\n")
    out = tmp_path / "pulled" / "theirs.model"
    result = invoke("pull", "me/digits", "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == (tmp_path / "mine.model").read_bytes()
    assert load_model(out).digest == shared_model.digest
    card = out.with_name("theirs.model.md")
    assert card.read_bytes() == hub.files["README.md"]
    card.write_text(card.read_text() + "Mine.\n")  # an edited card is the one that is pushed
    push_model(out, "me/digits")
    assert hub.files["README.md"] == card.read_bytes()
    with pytest.raises(AttractorError, match="exists"):
        pull_model("me/digits", out)
    assert pull_model("me/digits", out, again=True).digest == shared_model.digest


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_what_fails_is_one_line(hub, shared_model, tmp_path, monkeypatch):
    path, out = tmp_path / "mine.model", tmp_path / "new.model"
    shared_model.save(path)
    push_model(path, "me/digits")
    hub.files["attractor-ae.model"] = hub.files["attractor-ae.model"][:-1]
    calls = [
        ("pull", "me/digits", "--out", out),  # damaged
        ("pull", "me/nothing", "--out", out),
        ("pull", "no name", "--out", out),
        ("push", tmp_path / "nothing.model", "me/digits"),
        ("push", path, "a/b/c"),
    ]
    for words in calls:
        refused(*words)
    hub.largest = 0  # neither the storage Xet nor LFS is there
    for disabled in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", disabled)
        monkeypatch.setattr(Hub, "do_PUT", lambda self: self.answer(403))
        result = invoke("push", path, "me/digits")  # after the client's progress bars
        assert (result.exit_code, "hf auth login" in result.stderr.splitlines()[-1]) == (2, True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("push", path, "me/digits")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")  # unreachable
    refused("push", path, "me/digits")
    assert not out.exists()


def refused(*words):
    result = invoke(*words)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert "hf auth login" in result.stderr or ".model: " in result.stderr
