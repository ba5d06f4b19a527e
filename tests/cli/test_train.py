"""``monosem train``: options, activations of a tiny model or from disk, and resuming."""

import json
import re
import sys
from dataclasses import fields

import numpy as np
import pytest
import stand_in_trackers
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.cli import settings
from monosem.cli.main import main
from monosem.data.native import save_folder
from monosem.data.tokenizer import train_tokenizer
from monosem.nn import KINDS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer((d.text for d in tiny_documents()), 300)
    save_folder(folder, tiny_model().module, tokenizer)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"source": d.source, "text": d.text}) + "\n" for d in tiny_documents(30)))
    return path


@pytest.fixture
def command(model, text, tmp_path):
    """command("--k", "4"): exit code of ``monosem train`` on the tiny model, with these options added."""
    words = ["train", "--model", model, "--hook", HOOK, "--split", "all", "--d-sae", 64, "--batch-size", 128]
    words += ["--steps", 10, "--out", tmp_path / "run", "--quiet"]

    def run(*more) -> int:
        source = () if "--tokens" in more else ("--text", text)
        return main([str(w) for w in (*words, *source, *more)])

    return run


def test_trains_topk_from_a_model(command, tmp_path, capsys, model):
    assert command("--k", 4, "--log-every", 5, "--checkpoint-every", 4) == 0
    output = capsys.readouterr().out
    assert "activations of width 32" in output and "10 steps of 128 tokens" in output
    assert output.count("TopK with k = 4, 64 features: ") == 2
    assert f"next: monosem evaluate {tmp_path / 'run'}" in output
    sae = ms.load(tmp_path / "run")
    assert (sae.cfg.kind, sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.k) == ("topk", 32, 64, 4)
    assert sae.metadata["hook_name"] == HOOK and sae.metadata["model"] == str(model)
    assert [json.loads(r)["step"] for r in (tmp_path / "run" / "metrics.jsonl").open()] == [5, 10]
    assert sorted(p.name for p in (tmp_path / "run").glob("ckpt-*")) == ["ckpt-10", "ckpt-8"]


def test_less_memory_for_adam(command, tmp_path, capsys):
    assert command("--k", 4, "--adam-state", "int8", "--lazy-rows") == 0
    train = ms.load(tmp_path / "run").metadata["train"]
    assert (train["adam_state"], train["lazy_rows"]) == ("int8", True)
    assert command("--k", 4, "--adam-state", "bf16") != 0  # the folder holds another run
    assert "adam_state is 'int8' there and 'bf16' here" in capsys.readouterr().err


def test_repeating_a_command_changes_nothing_and_another_is_refused(command, tmp_path, capsys):
    assert command("--k", 4) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").glob("*.safetensors")}
    assert command("--k", 4) == 0
    assert {p: p.read_bytes() for p in (tmp_path / "run").glob("*.safetensors")} == before
    assert command("--k", 4, "--lr", 2e-3) == 2
    assert "train.lr is 0.001 there and 0.002 here" in capsys.readouterr().err


def test_metrics_go_to_the_trackers_too(command, tmp_path, monkeypatch, model):
    made = stand_in_trackers.install(monkeypatch)
    options = ["--k", 4, 8, "--log", "wandb", "tensorboard", "trackio", "--log-every", 5, "--checkpoint-every", 5]
    assert command(*options) == 0
    (wandb,), (trackio,), (board,) = made["wandb"], made["trackio"], made["tensorboard"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [{"step": step, **row} for step, row in wandb.rows] == rows and rows[0]["1/l0"] == pytest.approx(8, abs=0.1)
    assert (wandb.options["project"], wandb.options["name"]) == ("monosem", "run")
    config = trackio.options["config"]
    assert config["sae"]["1"]["k"] == 8 and config["train"]["steps"] == 10 and config["split"] == "all"
    assert board.folder == str(tmp_path / "run" / "tensorboard") and '"lr": 0.001' in board.text["config"][1]
    assert command(*options, "--steps", 20, "--log-project", "p", "--log-name", "n") == 0
    again = made["wandb"][1]
    assert again.steps == [15, 20] and again.options["id"] == wandb.options["id"]
    assert (again.options["project"], again.options["name"]) == ("p", "n")


def test_a_missing_tracker_is_reported_before_anything_is_read(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert command("--log", "trackio", "--text", "nowhere.jsonl") == 2 and not (tmp_path / "run").exists()
    said = capsys.readouterr().err
    assert "`pip install 'monosem[trackio]'`" in said and said.count("\n") == 1
    for words in (["--log-project", "p"], ["--log", "tensorboard", "--log-name", "n"]):
        assert command(*words) == 2
        assert f"{words[-2]}: got '{words[-1]}'; it has no effect without --log wandb" in capsys.readouterr().err


def test_a_run_is_repeated_from_the_file_that_it_keeps(command, tmp_path, capsys):
    weights = lambda run: torch.cat([p.flatten() for p in ms.load(tmp_path / run).parameters()])
    assert command("--k", 4, "--lr", 2e-3, "--lazy-rows", "--checkpoint-every", 4) == 0
    kept = (tmp_path / "run" / "run.yaml").read_text()
    assert "\nlr: 0.002\n" in kept and "\nlazy_rows: true\n" in kept and "\nk: 4\n" in kept
    repeat = ["train", "--config", str(tmp_path / "run" / "run.yaml"), "--out", str(tmp_path / "again")]
    assert main(repeat) == 0 and torch.equal(weights("run"), weights("again"))
    assert command("--k", 4, "--lr", 2e-3, "--lazy-rows", "--checkpoint-every", 4, "--resume-from", 8) == 0
    assert (tmp_path / "run" / "run.yaml").read_text() == kept
    assert command("--k", 5) == 2  # another run is refused, and leaves the file
    assert (tmp_path / "run" / "run.yaml").read_text() == kept


def test_resume_from_a_given_step(command, tmp_path):
    assert command("--k", 4, "--checkpoint-every", 4) == 0
    result = torch.cat([p.flatten() for p in ms.load(tmp_path / "run").parameters()])
    assert command("--k", 4, "--checkpoint-every", 4, "--resume-from", 8) == 0
    assert torch.equal(torch.cat([p.flatten() for p in ms.load(tmp_path / "run").parameters()]), result)
    assert (tmp_path / "run" / "discarded-ckpt-10").is_dir()


def harvested(out, model, text, *hooks):
    words = ["harvest", "--model", model, *hooks, "--text", text, "--split", "all", "--out", out, "--quiet"]
    return main([str(word) for word in words])


def test_trains_several_relu_from_disk_with_resampling(model, text, tmp_path, capsys):
    assert harvested(tmp_path / "acts", model, text, "--hook", HOOK) == 0
    words = ["train", "--activations", tmp_path / "acts", "--kind", "relu", "--l1", 1e-3, 1e-2, "--d-sae", 64]
    words += ["--batch-size", 128, "--epochs", 2, "--ema", 0.9, "--clip", 1.0, "--out", tmp_path / "run", "--quiet"]
    assert main([str(w) for w in words]) == 0
    saes = [ms.load(tmp_path / "run" / str(i)) for i in (0, 1)]
    assert [sae.cfg.l1_coefficient for sae in saes] == [1e-3, 1e-2]
    assert ms.load(tmp_path / "run" / "1" / "ema").metadata["hook_name"] == HOOK
    plan = saes[0].metadata["train"]["resample"]
    steps = saes[0].metadata["train"]["steps"]
    assert plan["at_steps"][-1] <= steps / 2 + 4 and plan["n_inputs"] == 256
    assert f"monosem evaluate {tmp_path / 'run'}/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("--d-sae", 10**12),
            r"d_sae: training 1 × d_sae=1,000,000,000,000 of width 32 needs about 8.* TB more memory",
        ),
        (("--k", 65), "k: got 65"),
        (("--k", 0), "k: got 0"),
        (("--hook", "blocks.0.mlp.hook_pots"), "blocks.0.mlp.hook_post"),
        (("--text", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--lr", "-1"), "lr: got -1.0; wanted a positive number"),
        (("--lr-warmup", 11), "lr_warmup: got 11; wanted steps"),
        (("--activations", "nowhere"), "nowhere"),
        (("--tokens", "nowhere.npy"), "nowhere.npy"),
        (("--resume-from", 3), "ckpt-3' does not exist"),
        (("--target-l0", 8), r"--target-l0: got \[8.0\]; it has no effect on --kind topk, which has k, aux_k, aux_co"),
        (("--kind", "gated", "--k", 8), r"--k: got \[8\]; it has no effect on --kind gated, which has l1_coefficient"),
        (("--kind", "matryoshka", "--l1", 0.1), r"--l1: got \[0.1\]; it has no effect on Matryoshka \(batch_topk, k ="),
        (("--kind", "matryoshka", "--set", "bandwidth=1"), "--set: got bandwidth=1; it has no effect on Matryoshka"),
        (("--kind", "matryoshka", "--sparsity-warmup", 0.5), "--sparsity-warmup: got 0.5; it has no effect"),
        (("--kind", "jumprelu", "--set", "pre_activation_coefficient=1"), r"has no effect on JumpReLU \(l0\)"),
        (("--kind", "jumprelu", "--set", "epsilon=1"), "--set: got epsilon; wanted a setting of --kind jumprelu: l0_"),
        (("--k", 8, "--set", "k=4"), "--set: got k, which --k sets too; wanted one of them"),
        (("--kind", "matryoshka", "--prefixes", 8, 4), r"prefixes: got \(8, 4\); wanted ascending sizes"),
        (("--kind", "jumprelu", "--set", "bandwidth=0"), "bandwidth: got 0; wanted a number above 0"),
    ],
)
def test_bad_arguments_give_a_one_line_error(command, capsys, tmp_path, words, message):
    assert command(*words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("monosem train: ") and "\n" not in error and "Traceback" not in error
    assert re.search(message, error), error
    assert not list(tmp_path.glob("run/ckpt-*"))


def test_several_values_of_any_setting_train_several_dictionaries(command, tmp_path):
    assert command("--kind", "jumprelu", "--target-l0", 4, 8, "--set", "bandwidth=0.1,0.2", "form=l0") == 0
    configurations = [ms.load(tmp_path / "run" / str(i)).cfg for i in range(4)]
    assert [(c.target_l0, c.bandwidth) for c in configurations] == [(4, 0.1), (4, 0.2), (8, 0.1), (8, 0.2)]


@pytest.mark.parametrize(
    "words, share", [((), 0.05), (("--set", "form=tanh"), 1.0), (("--sparsity-warmup", 0.3), 0.3)], ids=str
)
def test_the_penalty_rises_as_the_kind_says(command, tmp_path, words, share):
    assert command("--kind", "jumprelu", *words) == 0
    assert ms.load(tmp_path / "run").metadata["train"]["sparsity_warmup"] == share


def test_free_norms_are_not_resampled_unless_told(command, tmp_path):
    for run, norm in (("free", "free"), ("unit", "unit")):
        assert command("--kind", "relu", "--decoder-norm", norm, "--steps", 40, "--out", tmp_path / run) == 0
        assert (ms.load(tmp_path / run).metadata["train"]["resample"] is None) == (norm == "free")


def test_training_on_an_array_of_tokens(command, tmp_path):
    rows = np.random.default_rng(0).integers(0, 300, (200, 32))
    np.save(tmp_path / "tokens.npy", rows)
    assert command("--tokens", tmp_path / "tokens.npy", "--k", 2) == 0


def test_text_and_tokens_exclude_each_other(command, capsys):
    with pytest.raises(SystemExit):
        command("--text", "a.jsonl", "--tokens=b.npy")
    assert "argument --tokens: not allowed with argument --text" in capsys.readouterr().err


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    output = capsys.readouterr().out
    assert "Ctrl-C saves and stops" in output and "--sparsity-warmup" in output and "(default: None)" not in output


def test_help_lists_the_kinds_with_their_settings(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    output = capsys.readouterr().out
    for kind, cls in KINDS.items():
        section = output.split(f"\n  {kind:13}")[1].split("\n\n")[0]
        for field in {f.name for f in fields(cls.Config)} - {"d_in", "d_sae", "d_out", "n_sources"}:
            option = next((o for o, name in settings.OPTIONS.items() if name == field), None)
            named = field if option is None else "--" + option.replace("_", "-")
            text = re.search(rf"^      {named}: (\S+)", section, flags=re.M)
            assert text and not text[1].startswith("(default"), f"{kind}.{field} is not described"


PAIR = ["--hook", "blocks.0.ln2.hook_normalized", "--hook-out", "blocks.0.hook_mlp_out"]


@pytest.fixture
def twin(model, tmp_path):
    """A second model with the tokenizer of the first."""
    save_folder(tmp_path / "twin", tiny_model(seed=1).module, ms.load_model(model).tokenizer)
    return tmp_path / "twin"


def test_a_transcoder_is_trained_on_its_two_hooks(command, tmp_path, capsys, model):
    assert command("--kind", "transcoder", "--k", 4, "--set", "skip=true", *PAIR) == 0
    said = capsys.readouterr().out
    assert "blocks.0.ln2.hook_normalized, blocks.0.hook_mlp_out of" in said and "of width 16 + 16" in said
    sae = ms.load(tmp_path / "run")
    assert (sae.cfg.d_in, sae.cfg.d_out, sae.cfg.skip) == (16, 16, True)
    assert sae.metadata["hook_name"] == [PAIR[1], PAIR[3]] and sae.metadata["model"] == str(model)
    assert command("--kind", "transcoder", "--k", 4, "--set", "skip=true", *PAIR) == 0  # finished: nothing to do
    assert command("--kind", "transcoder", "--k", 4, "--set", "skip=true", *PAIR[:3], HOOK) == 2
    assert "holds another run: sae.d_out is 16 there and 32 here" in capsys.readouterr().err


def test_a_crosscoder_is_trained_on_several_hooks_or_models(command, tmp_path, capsys, model, twin):
    both = ["--hook", "blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"]
    assert command("--kind", "crosscoder", "--l1", 0.01, *both) == 0
    sae = ms.load(tmp_path / "run")
    assert (sae.cfg.d_in, sae.cfg.n_sources) == (48, 3) and sae.metadata["hook_name"] == both[1:]
    out = ["--out", tmp_path / "models"]
    assert command("--kind", "crosscoder", "--l1", 0.01, "--model", model, twin, *out) == 0
    sae = ms.load(tmp_path / "models")
    assert (sae.cfg.d_in, sae.cfg.n_sources) == (64, 2) and sae.metadata["model"] == [str(model), str(twin)]
    assert f"of {model}, {twin}" in capsys.readouterr().out


def test_harvested_pairs_train_what_they_suit(command, tmp_path, capsys, model, text):
    assert harvested(tmp_path / "acts", model, text, *PAIR) == 0 and "width 32" in capsys.readouterr().out

    def train(kind):
        run = ["train", "--activations", tmp_path / "acts", "--kind", kind, "--d-sae", 64, "--batch-size", 128]
        return main([str(w) for w in (*run, "--steps", 4, "--out", tmp_path / kind, "--quiet")])

    assert train("transcoder") == 0 and train("crosscoder") == 0
    assert ms.load(tmp_path / "transcoder").metadata["hook_name"] == [PAIR[1], PAIR[3]]
    capsys.readouterr()
    assert train("topk") == 2 and not (tmp_path / "topk").exists()
    assert "activations: got 2 per token, of width 16 + 16; wanted one, for kind 'topk'" in capsys.readouterr().err


TWO = ["--hook", HOOK, "blocks.0.mlp.hook_pre"]
MISFITS = [
    ("transcoder", [], "--hook-out: got none"),
    ("transcoder", [*TWO, *PAIR[2:]], f"--hook: got {HOOK} blocks.0.mlp.hook_pre; wanted one"),
    ("transcoder", ["--model", "A", "B", *PAIR], "--model: got A B; wanted one"),
    ("transcoder", ["--hook", HOOK, "--hook-out", HOOK], "wanted each activation once"),
    ("topk", PAIR[2:], "--hook-out: got 'blocks.0.hook_mlp_out'; --kind topk reconstructs what it reads"),
    ("topk", TWO, f"--hook: got {HOOK} blocks.0.mlp.hook_pre; wanted one on --kind topk"),
    ("relu", ["--model", "A", "B"], "--model: got A B; wanted one on --kind relu"),
    ("crosscoder", [], f"--hook: got '{HOOK}' of one model; wanted several activations"),
    ("crosscoder", PAIR, "--hook-out: got 'blocks.0.hook_mlp_out'; --kind crosscoder"),
    ("crosscoder", ["--model", "A", "A"], "--model: got A A; wanted each model once"),
    (
        "crosscoder",
        ["--hook", HOOK, "blocks.0.hook_mlp_out"],
        "got 2 per token, of width 32 + 16; wanted those of several",
    ),
    ("crosscoder", [*TWO, "--set", "n_sources=3"], "--set: got n_sources; wanted other fields"),
    ("crosscoder", ["--hook", HOOK, "blocks.0.mlp.hook_por"], "has no hook 'blocks.0.mlp.hook_por'"),
]


@pytest.mark.parametrize(("kind", "words", "said"), MISFITS, ids=[str(i) for i in range(len(MISFITS))])
def test_activations_that_do_not_suit_a_kind_are_refused(command, tmp_path, capsys, kind, words, said):
    assert command("--kind", kind, *words) == 2 and not (tmp_path / "run").exists()
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_models_of_other_tokens_or_lengths_are_refused(command, tmp_path, capsys, model):
    command_of = ["--kind", "crosscoder", "--l1", 0.01, "--model", model]
    assert command(*command_of, "A") == 2
    assert "do not share a tokenizer" in capsys.readouterr().err
    save_folder(tmp_path / "short", tiny_model(seed=1, n_ctx=16).module, ms.load_model(model).tokenizer)
    assert command(*command_of, tmp_path / "short") == 2
    assert "reads 16 tokens; wanted one length. Give --context 16." in capsys.readouterr().err
    assert command(*command_of, tmp_path / "short", "--context", 16) == 0
