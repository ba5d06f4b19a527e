"""Models of transformers that read no tokens."""

import os

import pytest

from monosem.data.models import load_model

REASON = "transformers is not installed (pip install 'monosem[hf]')"
if os.environ.get("MONOSEM_REQUIRE_LENS"):
    import transformers
else:
    transformers = pytest.importorskip("transformers", reason=REASON, exc_type=ImportError)


@pytest.mark.parametrize("kind", ["ViT", "CLIPVision"])
def test_a_model_of_images_is_refused_by_name(kind, tmp_path):
    size = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = getattr(transformers, f"{kind}Config")(**size, image_size=16, patch_size=8)
    module = getattr(transformers, f"{kind}Model")(config)
    module.save_pretrained(tmp_path)
    for model in (module, tmp_path):
        with pytest.raises(ValueError, match=rf"is a {kind}Model, which reads no tokens but pixel_values; wanted"):
            load_model(model)
