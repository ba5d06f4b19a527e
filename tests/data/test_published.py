"""Uploading a dictionary: what arrives at a server that answers as Hugging Face does, and what its refusal becomes."""

import base64
import json
from http.server import BaseHTTPRequestHandler

import pytest
import torch
from hub import asking, serving

import monosem as ms
from monosem.data.published import card

pytest.importorskip("huggingface_hub")
COMMIT = "ab" * 20


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face's server as an upload asks for. ``files``: what was committed, by repository and path."""

    files: dict[str, bytes]
    REFUSED = {"forbidden": 403, "broken": 500}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, endpoint = self.path.split("?")[0], f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            name = json.loads(body)["name"]
            self._send({"url": f"{endpoint}/you/{name}", "id": f"you/{name}"}, self.REFUSED.get(name, 200))
        elif path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif refused := next((status for name, status in self.REFUSED.items() if f"/you/{name}/" in path), None):
            self._send({"error": "no"}, refused)
        elif "/preupload/" in path:
            asked = json.loads(body)["files"]
            self._send({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        elif "/commit/" in path:
            repo = path.removeprefix("/api/models/").split("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[f"{repo}/{line['value']['path']}"] = content
            self._send({"success": True, "commitOid": COMMIT, "commitUrl": f"{endpoint}/{repo}/commit/{COMMIT}"})
        else:
            self._send({"error": path}, 404)

    def do_GET(self) -> None:
        self._send({"id": "you/dictionaries", "sha": COMMIT, "siblings": []})

    def _send(self, record, status: int = 200) -> None:
        content = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def run(tmp_path):
    sae = ms.TopKSAE(6, 20, 3, seed=0)
    sae.metadata = {"model": "org/small", "hook_name": "blocks.1.hook_resid_post"}
    folder = ms.save(sae, tmp_path / "run")
    figures = {"l0": 3.0, "ce_loss_recovered": 0.9512, "tokens": 100_000, "dead": 0}
    (folder / "evaluation.json").write_text(json.dumps(figures))
    return folder


PUSHED = "ms.push_to_hub(*question[:3], format=question[3])"


def test_the_dictionary_and_its_card_arrive_and_an_error_is_one_line(run, tmp_path):
    Hub.files = {}
    asked = [("you/one", "", "monosem"), ("you/many", "layer_1/topk", "sae_lens"), ("you/no", "", "circuit_tracer")]
    asked += [("you/forbidden", "", "monosem"), ("you/broken", "", "monosem")]
    with serving(Hub) as (endpoint, stop), asking(PUSHED, endpoint, tmp_path / "home") as ask:
        lines = ask(*((str(run), *words) for words in asked))
        stop()
        (offline,) = ask((str(run), *asked[0]))
    assert offline.startswith("ConnectionError repo: Hugging Face was not reached for 'you/one'")
    assert lines[0].startswith(endpoint + "/you/one"), lines
    assert lines[2].startswith("ValueError format: circuit_tracer has no dictionaries but transcoders")
    assert lines[3].startswith("PermissionError repo: got 'you/forbidden', which this token may not write to")
    assert lines[4].startswith("ConnectionError repo: Hugging Face refused 'you/broken'")
    assert {name.split("/", 2)[2] for name in Hub.files if name.startswith("you/one/")} == {
        "README.md",
        "cfg.json",
        "sae.safetensors",
    }
    assert {name.split("/")[1] for name in Hub.files} == {"one", "many"}
    for name, content in Hub.files.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    x = torch.randn(5, 6, generator=torch.Generator("cpu").manual_seed(0))
    wanted = ms.load(run)(x)
    assert torch.equal(ms.from_pretrained(tmp_path / "copy" / "you" / "one")(x), wanted)
    assert torch.equal(ms.from_pretrained(tmp_path / "copy" / "you" / "many", "layer_1/topk")(x), wanted)
    page = Hub.files["you/many/layer_1/topk/README.md"].decode()
    assert "library_name: saelens" in page and "base_model: org/small" in page
    assert "ms.from_pretrained('you/many', 'layer_1/topk')" in page and "| CE loss recovered | 95.1% |" in page


def test_a_card_without_figures_says_what_is_known():
    page = card(ms.TopKSAE(6, 20, 3, seed=0), "you/one", "", "monosem", {})
    assert page.startswith("---\nlibrary_name: monosem\ntags:\n- sparse-autoencoder\n")
    assert "# TopK with k = 3\n\n20 features.\n" in page and "held-out" not in page and '"d_sae": 20' in page
