"""``from_pretrained``: a copy of a repository, a stand-in for Hugging Face's server, and neither."""

import json
import shutil
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from hub import asking, serving

import monosem as ms
from monosem.data.pretrained import needed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "formats"
FILES = [
    "README.md",
    "config.json",
    "layers.0/cfg.json",
    "layers.0/sae.safetensors",
    "layers.0/optimizer_0.pt",
    "layers.1/sae.safetensors",
    "res/layer_12/width_16k/average_l0_82/params.npz",
    "L8R/hyperparams.json",
    "L8R/lm_config.json",
    "L8R/checkpoints/final.safetensors",
    "plt/config.yaml",
    "plt/layer_0.safetensors",
    "plt/layer_1.safetensors",
    "attn/L0.pt",
    "attn/L0_cfg.json",
    "v5_layer_0.pt/cfg.json",
    "v5_layer_0.pt/sae_weights.safetensors",
]


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("layers.0", ["config.json", "layers.0/cfg.json", "layers.0/sae.safetensors"]),
        ("res/layer_12/width_16k/average_l0_82", ["config.json", "res/layer_12/width_16k/average_l0_82/params.npz"]),
        ("L8R", ["L8R/checkpoints/final.safetensors", "L8R/hyperparams.json", "L8R/lm_config.json", "config.json"]),
        ("plt/layer_1.safetensors", ["config.json", "plt/config.yaml", "plt/layer_1.safetensors"]),
        ("attn", ["attn/L0.pt", "attn/L0_cfg.json", "config.json"]),
        ("v5_layer_0.pt", ["config.json", "v5_layer_0.pt/cfg.json", "v5_layer_0.pt/sae_weights.safetensors"]),
        ("layers", []),
        ("res/layer_12", []),
    ],
)
def test_the_files_of_one_dictionary_alone_are_needed(name, wanted):
    assert needed(FILES, name) == wanted


def test_a_name_of_several_dictionaries_lists_them():
    with pytest.raises(
        ValueError, match=r"name: got 'plt', which holds 2 dictionaries: plt/layer_0\.safetensors, plt/l"
    ):
        needed(FILES, "plt")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with two dictionaries of SAELens and one of sparsify."""
    folder = tmp_path_factory.mktemp("hub") / "org" / "dictionaries"
    for name in ("topk", "gated"):
        shutil.copytree(FIXTURES / "sae_lens" / name, folder / "sae" / name)
    shutil.copytree(FIXTURES / "sparsify" / "topk", folder / "sparse")
    return folder


def test_a_copy_of_a_repository(repository):
    sae, x = ms.from_pretrained(repository, "sae/gated"), torch.randn(3, 8)
    assert torch.equal(sae(x), ms.load(FIXTURES / "sae_lens" / "gated")(x))
    assert sae.metadata["loaded_from"]["name"] == "sae/gated" and sae.metadata["loaded_from"]["format"] == "SAELens"
    with pytest.raises(FileNotFoundError, match=r"name: got 'sae/gate'; .* Did you mean 'sae/gated'"):
        ms.from_pretrained(repository, "sae/gate")
    with pytest.raises(ValueError, match=r"revision: got 'main'; .* is a folder here"):
        ms.from_pretrained(repository, "sae/gated", revision="main")


def test_our_own_in_a_copy_of_a_repository(tmp_path):
    ms.save(ms.TopKSAE(8, 16, 2, seed=0), tmp_path / "a", {"model": "A"})
    sae = ms.from_pretrained(tmp_path, "a")
    assert sae.metadata["model"] == "A" and sae.metadata["loaded_from"]["repository"] == str(tmp_path)


LOADED = """(lambda sae: f"loaded {sae.cfg.kind} {sae.metadata['loaded_from']['repository']}")(
            ms.from_pretrained(*question))"""
COMMIT = "c0ffee" * 6 + "beef"


class Hub(BaseHTTPRequestHandler):
    """As much of Hugging Face's server as a download asks for; ``folder`` is the repository org/dictionaries."""

    folder: Path
    sent: list[str]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        files = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())
        if path.startswith("/api/models/org/dictionaries/tree/"):
            tree = [
                {"type": "file", "path": f, "oid": "0" * 40, "size": (self.folder / f).stat().st_size} for f in files
            ]
            self._send(json.dumps(tree).encode())
        elif path.startswith("/api/models/org/dictionaries"):
            repo = {"id": "org/dictionaries", "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            self._send(json.dumps(repo).encode())
        elif path.startswith("/org/dictionaries/resolve/"):
            name = path.split("/", 5)[5]
            if self.command == "GET":
                self.sent.append(name)
            self._send((self.folder / name).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        for name, value in {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{sha256(content).hexdigest()}"',
            "Content-Length": str(len(content)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def test_a_repository_of_a_server(repository, tmp_path):
    pytest.importorskip("huggingface_hub")
    Hub.folder, Hub.sent, repo = repository, [], "org/dictionaries"
    names = [(repo, "sae/topk"), (repo, "sae/nothing"), (repo, "sae"), ("org/nothing", "a"), ("not a name", "a")]
    with serving(Hub) as (endpoint, stop), asking(LOADED, endpoint, tmp_path / "home") as ask:
        lines = ask(*names)
        assert lines[0] == "loaded topk org/dictionaries"
        assert sorted(Hub.sent) == ["sae/topk/cfg.json", "sae/topk/sae_weights.safetensors"]
        assert lines[1].startswith(
            "FileNotFoundError name: got 'sae/nothing'; 'org/dictionaries' has no such folder or"
        )
        assert lines[2].startswith("FileNotFoundError name: got 'sae'") and "It has sae/gated, sae/topk" in lines[2]
        for line, (wrong, _) in zip(lines[3:], names[3:], strict=True):
            assert line.startswith(f"FileNotFoundError repo: got {wrong!r}; wanted a folder here, or a repository of")
        # Without a network: what was downloaded is still there, the rest is told in one line.
        stop()
        lines = ask((repo, "sae/topk"), (repo, "sae/gated"))
        assert lines[0] == "loaded topk org/dictionaries"
        assert "Hugging Face could not be asked (" in lines[1] and "'sae/gated' is not in its cache" in lines[1]
