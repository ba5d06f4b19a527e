"""Models of transformers behind our adapter: every hook, loss and logit direction against the model itself."""

import copy
import os

import pytest
import torch
from hf_families import FAMILIES, TOKENS, random_model
from tiny import TEXTS, tiny_model
from torch.nn import functional as F

from monosem.data import hugging_face
from monosem.data.adapter import BEFORE_UNEMBED, Model
from monosem.data.harvest import harvest
from monosem.data.hugging_face import HuggingFaceModel
from monosem.data.lens import _hugging_face
from monosem.data.models import load_model
from monosem.data.text import Document
from monosem.data.token_rows import pack_rows

REASON = "transformers is not installed (pip install 'monosem[hf]')"
if os.environ.get("MONOSEM_REQUIRE_LENS"):
    import transformers
else:
    transformers = pytest.importorskip("transformers", reason=REASON, exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")
POST = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return _hugging_face(tiny_model().tokenizer, str(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def llama(tokenizer):
    return load_model(random_model("Llama"), tokenizer=tokenizer)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """(name, its description, the model in float64, the same behind our adapter)."""
    module = random_model(request.param, torch.float64)
    return request.param, FAMILIES[request.param], module, load_model(module)


def at_place(module, name, hook, is_input=False):
    """A handle of ``hook`` on a tensor of the model itself; what it returns stands there instead."""

    def before(_, args, kwargs):
        key = None if args else "hidden_states"
        changed = hook(args[0] if args else kwargs[key])
        return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {key: changed})

    def after(_, args, output):
        changed = hook(output[0] if isinstance(output, tuple) else output)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    part = module.get_submodule(name)
    return part.register_forward_pre_hook(before, with_kwargs=True) if is_input else part.register_forward_hook(after)


@torch.no_grad()
def seen(module, name, is_input=False):
    kept = []
    handle = at_place(module, name, lambda x: kept.append(x.clone()) or x, is_input)
    module(TOKENS)
    handle.remove()
    return kept[0].reshape(*TOKENS.shape, -1)


def test_parts_of_a_layer_have_transformer_lens_names(family):
    name, parts, module, ours = family
    expected = {
        "blocks.1.hook_resid_pre": (parts.layer, True),
        POST: (parts.layer, False),
        "blocks.1.hook_mlp_out": (parts.mlp, False),
    }
    if parts.projection:
        expected["blocks.1.mlp.hook_post"] = (parts.projection, True)
    for hook, (part, is_input) in expected.items():
        value = seen(module, part, is_input).float()
        assert torch.equal(ours.activations(TOKENS, hook), value), hook
        assert torch.equal(ours.activations(TOKENS, part + ":in" * is_input), value), hook
        assert ours.width(hook) == value.shape[-1]
    pre, attn, mlp, post = (
        ours.activations(TOKENS, f"blocks.1.hook_{point}").double()
        for point in ("resid_pre", "attn_out", "mlp_out", "resid_post")
    )
    factor = 0.3 if name == "Granite" else 1.0
    torch.testing.assert_close(pre + factor * (attn + mlp), post, atol=1e-5, rtol=1e-5)
    side_by_side = name in ("Cohere", "GPTNeoX")
    assert ("blocks.1.hook_resid_mid" in ours.hook_names) is not side_by_side
    if not side_by_side:
        mid = ours.activations(TOKENS, "blocks.1.hook_resid_mid").double()
        torch.testing.assert_close(pre + factor * attn, mid, atol=1e-5, rtol=1e-5)


def test_losses_are_the_models_own(family):
    _, _, module, ours = family
    with torch.no_grad():
        logits = module(TOKENS).logits[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="none").view(2, 11)
    torch.testing.assert_close(ours.token_losses(TOKENS), expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("point", ["hook_resid_post", "hook_mlp_out", "mlp.hook_post"])
def test_logit_directions_are_the_slope_of_the_models_logits(family, point):
    """The Jacobian of the model itself, along directions that leave the scale of its final norm as it is."""
    name, parts, module, ours = family
    hook, part = f"blocks.1.{point}", {"hook_resid_post": parts.layer, "hook_mlp_out": parts.mlp}.get(point)
    if part is None and not parts.projection:
        with pytest.raises(ValueError, match=r"'blocks.1.mlp.hook_post' has no linear path to the logits"):
            ours.logit_directions(hook)
        return
    directions = ours.logit_directions(hook)
    stream = seen(module, parts.layer)[1, 5]
    away = stream - stream.mean()
    still = torch.stack([stream, torch.ones_like(stream)], dim=1)
    path = torch.eye(len(stream), dtype=torch.float64)
    if part is None:
        weight = module.get_submodule(parts.projection).weight.detach()
        path = weight if name == "GPT2" else weight.T
    moved = torch.randn(len(path), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    basis = torch.linalg.qr(path @ still)[0]
    moved -= basis @ (basis.T @ moved)

    change = torch.zeros(*TOKENS.shape, len(path), dtype=torch.float64)
    change[1, 5] = moved

    def logits(step):
        at = at_place(module, part or parts.projection, lambda x: x + (step * change).view(x.shape), part is None)
        out = module(TOKENS).logits[1, 5]
        at.remove()
        return out

    nothing, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    here, slope = torch.autograd.functional.jvp(logits, nothing, one)
    if name == "Gemma2":  # the soft cap's own slope
        slope = slope / (1 - (here / 5.0).square())
    centred = name in ("Nemotron", "Olmo", "Cohere", "GPTNeoX", "Bloom", "OPT", "GPT2")
    scale = (away if centred else stream).square().mean().sqrt()
    expected = moved @ directions.double() / scale
    # Norms add an epsilon of 1e-5 or 1e-6 to a square of about 1; directions are float32.
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_logit_directions_are_found_by_the_modules_own_names(llama):
    for name, own in (
        (POST, "model.layers.1"),
        ("blocks.1.hook_mlp_out", "model.layers.1.mlp"),
        ("blocks.1.mlp.hook_post", "model.layers.1.mlp.down_proj:in"),
        (BEFORE_UNEMBED, "lm_head:in"),
    ):
        assert torch.equal(llama.logit_directions(name), llama.logit_directions(own))
    with pytest.raises(ValueError, match=r"'model.layers.1.self_attn.q_proj' has no linear path"):
        llama.logit_directions("model.layers.1.self_attn.q_proj")


def test_logit_directions_follow_the_model_and_are_not_its_weights():
    model = load_model(random_model("Llama"))
    weight = model.module.lm_head.weight
    model.logit_directions(BEFORE_UNEMBED).zero_()
    assert weight.detach().any()
    assert model._final_path()[2].data_ptr() == weight.data_ptr()  # no copy of it is kept
    model.to("meta")
    with pytest.raises(ValueError, match="need weights in memory as floating point, and these are offloaded"):
        model.logit_directions(BEFORE_UNEMBED)


def test_layers_that_are_no_sum_have_no_path_from_before_them():
    mamba = load_model(
        random_model("Mamba", vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4, bos_token_id=0)
    )
    assert mamba.logit_directions(POST).shape == (32, 300)
    with pytest.raises(ValueError, match=r"'blocks.0.hook_resid_post' of .* has no known linear path"):
        mamba.logit_directions("blocks.0.hook_resid_post")


def test_replacements_reach_the_model(family):
    _, parts, module, ours = family
    with torch.no_grad():
        handle = at_place(module, parts.mlp, lambda x: 0.5 * x + 0.1)
        logits = module(TOKENS).logits[:, :-1]
        handle.remove()
    expected = F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="none").view(2, 11)
    for hook in ("blocks.1.hook_mlp_out", parts.mlp):
        got = ours.token_losses(TOKENS, {hook: lambda x: 0.5 * x + 0.1})
        torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-5)


def test_the_middle_of_a_layer_is_read_and_not_written(llama):
    with pytest.raises(ValueError, match=r"replace: 'blocks.0.hook_resid_mid' .* does not reach the residual stream"):
        llama.token_losses(TOKENS, {"blocks.0.hook_resid_mid": torch.zeros_like})


def test_several_hooks_take_one_pass_that_stops_at_the_last(llama):
    passes = []

    def never(*_):
        raise AssertionError("went on beyond the hooks")

    handles = [
        llama.module.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1)),
        llama.module.model.layers[1].mlp.register_forward_pre_hook(never),
    ]
    names = ["blocks.1.hook_attn_out", "model.layers.0.mlp", "model.layers.0.mlp:in"]
    try:
        got = llama.activations_at(TOKENS, names)
        assert len(passes) == 1
    finally:
        for handle in handles:
            handle.remove()
    assert all(torch.equal(x, llama.activations(TOKENS, name)) for x, name in zip(got, names, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.module.modules())


def test_bf16_stays_bf16(tmp_path, tokenizer):
    model = load_model(random_model("Gemma2", torch.bfloat16), tokenizer=tokenizer)
    x = model.activations(TOKENS, POST)
    assert x.dtype == torch.bfloat16
    store = harvest(model, POST, TOKENS, tmp_path, "bf16", skip_tokens=(), progress=False)
    assert torch.equal(store.read(range(22))[0].bfloat16(), x[:, 1:].flatten(0, 1))
    assert model.token_losses(TOKENS, {POST: lambda a: a}).equal(model.token_losses(TOKENS))
    double = load_model(random_model("Gemma2", torch.float64)).logit_directions(POST)
    half = model.logit_directions(POST)
    assert float((half - double).norm() / double.norm()) < 0.01  # bf16 rounds to 0.004


class Counted:
    """Adds 0.3 to every activation but the first; counts the tokens that it was called with."""

    def __init__(self):
        self.tokens = 0

    def __call__(self, x):
        self.tokens += x.shape[1]
        return torch.cat([x[:, :1], x[:, 1:] + 0.3], dim=1)


class Moved(Counted):
    def from_position(self, start):
        return lambda x: self(x) if not start else self(torch.cat([x[:, :1], x], 1))[:, 1:]


@pytest.mark.parametrize("change", [None, Counted, Moved])
def test_writing_with_a_cache_is_writing_without(family, change):
    """And a change that depends on the position sees the same positions."""
    name, _, _, ours = family
    replace = None if change is None else {"blocks.0.hook_resid_post": change()}
    got = ours.generate([5, 6, 7], 9, temperature=0, replace=replace)
    whole = HuggingFaceModel(ours.module)
    whole._writer = lambda replace: Model._writer(whole, replace)
    assert got == whole.generate([5, 6, 7], 9, temperature=0, replace=replace), name


def test_each_token_is_read_once(llama):
    change = Moved()
    read = []
    handle = llama.module.model.layers[0].register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    try:
        llama.generate([5, 6, 7], 6, replace={POST: change})
    finally:
        handle.remove()
    assert read == [4, 1, 1, 1, 1, 1]


def test_writing_goes_on_when_the_context_is_full(tokenizer):
    model = load_model(random_model("Llama", **(FAMILIES["Llama"].settings | dict(max_position_embeddings=8))))
    model._given_tokenizer = tokenizer
    out = model.generate([5, 6, 7], 12, temperature=0)
    whole = HuggingFaceModel(model.module, tokenizer)
    whole._writer = lambda replace: Model._writer(whole, replace)
    assert len(out) == 16 and out == whole.generate([5, 6, 7], 12, temperature=0)


def test_text_is_that_of_the_tokenizer(llama):
    ours = tiny_model()
    assert (llama.bos_id, llama.d_vocab, llama.n_ctx) == (ours.bos_id, 300, 64)
    for text in (*TEXTS.values(), "<|bos|> is spelled"):
        assert llama.encode(text) == ours.encode(text) and llama.decode(llama.encode(text)) == text
    assert [llama.token_str(i) for i in range(300)] == [ours.token_str(i) for i in range(300)]


def test_rows_are_no_longer_than_2048_unless_asked(tokenizer):
    settings = FAMILIES["Llama"].settings | dict(max_position_embeddings=1 << 17)
    model = load_model(random_model("Llama", **settings), tokenizer=tokenizer)
    documents = [Document("en", TEXTS["en"] * 200)]
    assert model.n_ctx == 1 << 17 and pack_rows(documents, model).tokens.shape[1] == 2048
    assert pack_rows(documents, model, 4096).tokens.shape[1] == 4096


def test_a_model_without_bos_takes_its_end_of_text(tokenizer):
    settings = FAMILIES["Qwen2"].settings | dict(bos_token_id=None, eos_token_id=[7, 8])
    assert load_model(random_model("Qwen2", **settings)).bos_id == 7
    with pytest.raises(ValueError, match=r"tokenizer: 'Qwen2ForCausalLM' came without one .*; wanted one.*tokenizer=…"):
        load_model(random_model("Qwen2", **(settings | dict(eos_token_id=None)))).bos_id  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("saved") / "model"
    random_model("Llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_a_folder_is_loaded_as_it_is_stored_or_in_another_dtype(folder, llama):
    stored = load_model(folder)
    assert stored.name == folder and torch.equal(stored.activations(TOKENS, POST), llama.activations(TOKENS, POST))
    assert stored.encode(TEXTS["he"]) == llama.encode(TEXTS["he"])
    half = load_model(folder, dtype=torch.bfloat16)
    assert half.name == f"{folder}+bf16" and half.activations(TOKENS, POST).dtype == torch.bfloat16
    again = load_model(half.name)  # as a dictionary's folder has it
    assert again.name == half.name and torch.equal(again.activations(TOKENS, POST), half.activations(TOKENS, POST))


def test_the_path_of_a_folder_may_have_the_signs_of_a_revision_and_a_dtype(folder, tmp_path):
    for name in ("me@corp/model", "model+fp32"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(folder)
        half = load_model(place, dtype="bf16")
        assert half.name == f"{place}+bf16"
        again = load_model(half.name)
        assert again.name == half.name and again.module.dtype == torch.bfloat16


def test_a_device_map_places_the_model(folder, llama):
    placed = load_model(folder, device_map="cpu")
    assert torch.equal(placed.activations(TOKENS, POST), llama.activations(TOKENS, POST))
    placed.module.hf_device_map = {"model": 0, "lm_head": 1}  # as it is on several devices
    assert placed.to("cpu") is placed
    with pytest.raises(ValueError, match=r"device: got 'meta'; .* was placed by a device_map"):
        placed.to("meta")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("A", dict(dtype="bf16"), "dtype: got 'bf16'; the model is one of monosem's own"),
        ("A+bf16", {}, "dtype: got 'bf16'; the model is one of monosem's own"),
        ("A", dict(revision="main"), "revision: got 'main'; the model is one of monosem's own"),
        ("lens:gpt2", dict(dtype="bf16"), "dtype: got 'bf16'; the model is one of TransformerLens"),
        ("FOLDER", dict(revision="main"), "revision: got 'main'; .* is on this disk"),
        ("FOLDER", dict(dtype="int4"), "dtype: got 'int4'; wanted bf16, fp16, fp32, or auto"),
        ("FOLDER+bf16", dict(dtype="fp32"), r"dtype: got 'fp32' beside '.*\+bf16'; wanted one of the two"),
        ("no/such", {}, "model: 'no/such' is neither a bundled model nor a folder, and transformers could not load"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, model, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(model.replace("FOLDER", folder), **options)


BERT = dict(vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "LlamaModel"])
def test_a_model_without_next_token_has_activations(kind, tokenizer, tmp_path):
    """One without an unembedding, and one whose tokens see those behind them."""
    config = transformers.LlamaConfig(**FAMILIES["Llama"].settings) if "Llama" in kind else None
    module = getattr(transformers, kind)(config or transformers.BertConfig(**BERT)).eval()
    model = load_model(module, tokenizer=tokenizer)
    assert not model.predicts and BEFORE_UNEMBED not in model.hook_names
    layer = {"BertModel": "encoder.layer.1", "BertForMaskedLM": "bert.encoder.layer.1"}.get(kind, "layers.1")
    for hook in (layer, POST):
        assert torch.equal(model.activations(TOKENS, hook), seen(module, layer))
    store = harvest(model, POST, TOKENS, tmp_path, "fp32", skip_tokens=(), progress=False)
    assert torch.equal(store.read(range(22))[0], seen(module, layer)[:, 1:].flatten(0, 1))
    for refused in (
        lambda: model.token_losses(TOKENS),
        lambda: model.generate([1], 2),
        lambda: model.logit_directions(POST),
        lambda: model.check_written(POST),
    ):
        with pytest.raises(
            ValueError, match=rf"model: .* is a {kind}, which predicts no next token; wanted a model that"
        ):
            refused()


def test_an_encoder_that_calls_one_layer_again_and_again_predicts_no_next_token():
    """It has an unembedding, and no layers that are known as such: what the unembedding reads shows it."""
    module = transformers.AlbertForMaskedLM(transformers.AlbertConfig(**BERT, embedding_size=16)).eval()
    model = load_model(module)
    assert model.n_layers == 0 and not model.predicts
    with pytest.raises(ValueError, match="is a AlbertForMaskedLM, which predicts no next token"):
        model.token_losses(TOKENS)


def test_an_encoder_reads_as_many_tokens_as_its_tokenizer_gives(tokenizer):
    """RoBERTa's positions begin at 2; with an unembedding or without."""
    short = copy.deepcopy(tokenizer)
    short.model_max_length = 18
    for kind in (transformers.RobertaModel, transformers.RobertaForMaskedLM):
        model = load_model(kind(transformers.RobertaConfig(**BERT, max_position_embeddings=20)).eval(), tokenizer=short)
        assert model.n_ctx == 18 and model.activations(TOKENS.new_full((1, 18), 5), POST).shape == (1, 18, 16)


def test_an_encoder_is_loaded_without_a_random_unembedding(tokenizer, tmp_path):
    transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert type(model.module).__name__ == "BertModel" and not model.predicts
    assert model.encode(TEXTS["en"]) == tiny_model().encode(TEXTS["en"])


def test_objects_that_do_not_fit_are_refused(llama):
    from transformers import T5Config, T5ForConditionalGeneration

    t5 = T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="is a T5ForConditionalGeneration, an encoder and a decoder; wanted one of"):
        load_model(T5ForConditionalGeneration(t5))
    with pytest.raises(ValueError, match="dtype: got 'bf16'; the model is in memory already"):
        load_model(random_model("Llama"), dtype="bf16")
    with pytest.raises(ValueError, match=r"no hook 'blocks.0.attn.hook_q'; .* has more: load_model\('lens:Llama"):
        llama.activations(TOKENS, "blocks.0.attn.hook_q")
    with pytest.raises(ValueError, match=r"no hook 'model.layers.1.mpl'; nearest: model.layers.1.mlp, "):
        llama.activations(TOKENS, "model.layers.1.mpl")


def test_transformers_that_is_not_there_is_named(folder, monkeypatch):
    def absent():
        raise ImportError(f"a model of Hugging Face needs transformers: {hugging_face.EXTRA}")

    monkeypatch.setattr(hugging_face, "_library", absent)
    with pytest.raises(ImportError, match=r"needs transformers: pip install 'monosem\[hf\]'"):
        load_model(folder)
    with pytest.raises(ImportError, match=r"'no/such' is neither .* and a model of Hugging Face needs transformers"):
        load_model("no/such")
